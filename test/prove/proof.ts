/** Something that no single test can show: it holds for many random cases, for as long as one lets it run. */
export interface Proof {
  readonly name: string;
  /** What holds, in one sentence. */
  readonly describes: string;
  /** Why it cannot run on this machine. @throws Error with `CI=true` where only a program is missing */
  missing?(): string | false;
  /** Gets ready. What it returns is disposed at the end, also after a finding. */
  open(run: Run): Promise<Trials>;
}

export interface Trials extends AsyncDisposable {
  /** Cases that may run at once; default: one. */
  readonly atOnce?: number;
  /**
   * One case, which its seed alone decides as far as the machine lets it: the moment at which a process is killed is
   * the same, what the process has done by then is not.
   * @param seed 0 to 2^32 - 1; consecutive ones make cases that have nothing in common
   * @throws whatever was found
   */
  attempt(seed: number): Promise<void>;
  /** More about a finding, the smallest case that shows it for example. It has as long as a case. */
  explain?(seed: number): Promise<string>;
}

/** What a proof has of the run that it is in. */
export interface Run {
  /** Aborted when the run is to end early: by a signal, or by a finding. */
  readonly signal: AbortSignal;
  /** Counts something for the summary, by a few words. */
  count(what: string, by?: number): void;
  /** `--save DIR`: where to keep the first input of each kind, for proofs that have such. */
  readonly save: string | undefined;
}
