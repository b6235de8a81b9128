/** A property that is checked for random cases. Each module of this folder with an export `proof` has one. */
export interface Proof {
  readonly name: string;
  /** The property, in one sentence. */
  readonly describes: string;
  /** Why it cannot run on this machine. @throws Error with `CI=true` if only a program is missing */
  missing?(): string | false;
  /** Prepares the cases. The returned value is disposed at the end, also after a finding. */
  open(run: Run): Promise<Trials>;
}

export interface Trials extends AsyncDisposable {
  /** Cases that may run at once. Default: one. */
  readonly atOnce?: number;
  /**
   * Runs one case. The seed alone determines what happens and when. How far a process is at the moment of its kill depends
   * on the machine.
   * @param seed 0 to 2^32 - 1; consecutive seeds make independent cases
   * @throws any error is a finding
   */
  attempt(seed: number): Promise<void>;
  /** More about a finding, for example the smallest case that shows it. It has the same time limit as a case. */
  explain?(seed: number): Promise<string>;
}

/** What a proof gets from the run. */
export interface Run {
  /** Aborted by a signal or by a finding. */
  readonly signal: AbortSignal;
  /** Adds one to a counter of the summary. */
  count(what: string, by?: number): void;
  /** `--save DIR`: the folder for the first input of each kind, used by `fuzz`. */
  readonly save: string | undefined;
}
