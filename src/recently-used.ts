/** Values by their keys, as many as a limit allows: what was not used for the longest time is forgotten first. */
export class RecentlyUsed<V> {
  /** In the order of their last use. */
  readonly #values = new Map<string, V>();
  readonly #limit: number;
  readonly #weigh: (value: V) => number;
  #weight = 0;

  /** @param weigh what of the limit a value takes, always the same; default: 1 */
  constructor(limit: number, weigh: (value: V) => number = () => 1) {
    this.#limit = limit;
    this.#weigh = weigh;
  }

  get(key: string): V | undefined {
    const value = this.#values.get(key);
    if (value === undefined) return undefined;
    this.#values.delete(key);
    this.#values.set(key, value);
    return value;
  }

  /** Keeps a value, unless the key has one. What weighs more than the limit is not kept, nor is anything else then. */
  add(key: string, value: V): void {
    if (this.#values.has(key)) return;
    this.#values.set(key, value);
    this.#weight += this.#weigh(value);
    for (const [oldest, its] of this.#values) {
      if (this.#weight <= this.#limit) break;
      this.#values.delete(oldest);
      this.#weight -= this.#weigh(its);
    }
  }

  clear(): void {
    this.#values.clear();
    this.#weight = 0;
  }
}
