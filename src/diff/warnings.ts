/** What was left out of a layer, a sentence each. Only the first of a kind is kept in full, the rest is counted. */
export class Warnings {
  private readonly kinds = new Map<string, { sentence: string; count: number }>();

  /** The text up to the first quotation mark tells the kind. */
  add(sentence: string): void {
    const kind = sentence.slice(0, sentence.indexOf('"'));
    const known = this.kinds.get(kind);
    if (known === undefined) this.kinds.set(kind, { sentence, count: 1 });
    else known.count++;
  }

  sentences(): string[] {
    return [...this.kinds.values()].map(({ sentence, count }) =>
      count === 1 ? sentence : `${sentence} (and ${count - 1} more like this)`,
    );
  }
}
