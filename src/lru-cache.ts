/** A cache of limited weight that evicts the least recently used values first. */
export class LruCache<V> {
  /** Values in the order of their last use, oldest first. */
  readonly #values = new Map<string, V>();
  readonly #limit: number;
  readonly #weigh: (value: V) => number;
  #weight = 0;

  /** @param weigh the weight of a value, which must not change; default: 1 */
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

  /** Adds a value, unless the key has one. A value that weighs more than the limit empties the cache. */
  add(key: string, value: V): void {
    if (this.#values.has(key)) return;
    this.#values.set(key, value);
    this.#weight += this.#weigh(value);
    for (const [oldestKey, oldest] of this.#values) {
      if (this.#weight <= this.#limit) break;
      this.#values.delete(oldestKey);
      this.#weight -= this.#weigh(oldest);
    }
  }

  clear(): void {
    this.#values.clear();
    this.#weight = 0;
  }
}
