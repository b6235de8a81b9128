import { setTimeout as sleep } from 'node:timers/promises';
import { Counter, collectDefaultMetrics, Gauge, Registry } from 'prom-client';
import { version } from '../package.ts';

/** Time limit in milliseconds for each part of a scrape. Prometheus itself waits ten seconds. */
const PART_LIMIT = 2000;

/** A part of the page that is read when Prometheus asks, because it is not in the memory of this process. */
export interface Part {
  /** For the label `part`. */
  readonly name: string;
  /** Reads the values. */
  read(): Promise<void>;
  /** Removes the values, because they could not be read now. */
  clear(): void;
}

/**
 * The metrics of one process, as the page that Prometheus scrapes. Worker, board and snapshotter have one each. Every series of
 * worker and board has the name of the queue as a label, because an installation can have several.
 *
 * The page comes in any case: a part that fails or takes longer than PART_LIMIT is left out, and
 * `unpackd_scrape_part_success` says so. A part that hangs is not read again before it has ended.
 */
export class MetricsPage {
  readonly registry = new Registry();
  readonly #parts: Part[] = [];
  readonly #pending = new Set<string>();
  readonly #success: Gauge<'part'>;
  readonly #failures: Counter<'part'>;
  readonly #limit: number;

  /** @param limit time limit in milliseconds for each part */
  constructor(process: 'worker' | 'board' | 'snapshotter', queue: string | undefined, limit: number = PART_LIMIT) {
    this.#limit = limit;
    if (queue !== undefined) this.registry.setDefaultLabels({ queue });
    const registers = [this.registry];
    collectDefaultMetrics({ register: this.registry });
    new Gauge({
      name: 'unpackd_build_info',
      help: 'Always 1. The labels have the version of unpackd and of Node.',
      labelNames: ['version', 'node', 'process'],
      registers,
    }).set({ version, node: globalThis.process.version, process }, 1);
    this.#success = new Gauge({
      name: 'unpackd_scrape_part_success',
      help: 'Whether a part of this page could be read in time: 1 or 0. The metrics of a part with 0 are absent.',
      labelNames: ['part'],
      registers,
    });
    this.#failures = new Counter({
      name: 'unpackd_scrape_part_failures_total',
      help: 'Number of times that a part of this page could not be read in time.',
      labelNames: ['part'],
      registers,
    });
  }

  get contentType(): string {
    return this.registry.contentType;
  }

  add(part: Part): void {
    this.#parts.push(part);
    this.#failures.inc({ part: part.name }, 0);
  }

  /** Reads all parts at the same time, and returns the page as text. */
  async text(): Promise<string> {
    await Promise.all(this.#parts.map((part) => this.#read(part)));
    return await this.registry.metrics();
  }

  async #read(part: Part): Promise<void> {
    const { name } = part;
    const isRead = !this.#pending.has(name) && (await this.#readInTime(part));
    if (!isRead) {
      part.clear();
      this.#failures.inc({ part: name });
    }
    this.#success.set({ part: name }, isRead ? 1 : 0);
  }

  async #readInTime({ name, read }: Part): Promise<boolean> {
    this.#pending.add(name);
    const reading = read()
      .then(
        () => true,
        () => false,
      )
      .finally(() => this.#pending.delete(name));
    const timer = new AbortController();
    const late = sleep(this.#limit, false, { signal: timer.signal, ref: false }).catch(() => false);
    const isRead = await Promise.race([reading, late]);
    timer.abort();
    return isRead;
  }
}
