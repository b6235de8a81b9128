/** Kinds that are told apart. An archive can think up any number of them. */
const MAX_KINDS = 20;

/** What was left out of a layer, a sentence each. Only the first of a kind is kept in full, the rest is counted. */
export class Warnings {
  private readonly kinds = new Map<string, { sentence: string; count: number }>();
  private others = 0;

  /** The text up to the first quotation mark tells the kind. */
  add(sentence: string): void {
    const kind = sentence.slice(0, sentence.indexOf('"'));
    const known = this.kinds.get(kind);
    if (known !== undefined) known.count++;
    else if (this.kinds.size < MAX_KINDS) this.kinds.set(kind, { sentence, count: 1 });
    else this.others++;
  }

  sentences(): string[] {
    const all = [...this.kinds.values()].map(({ sentence, count }) =>
      count === 1 ? sentence : `${sentence} (and ${count - 1} more like this)`,
    );
    if (this.others > 0) all.push(`left out ${this.others} more things of other kinds`);
    return all;
  }
}
