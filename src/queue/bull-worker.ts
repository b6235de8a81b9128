import { type Job, Worker } from 'bullmq';

/**
 * BullMQ's worker, which knows the locks that it renews by the job's ID alone. A job whose lock was lost can come back to
 * this worker while its first run still unwinds; these two things then must not get mixed up:
 *
 * - which run has lost its lock: BullMQ's event `lockRenewalFailed` names the job only, and may come when a later run has it
 * - whose lock is renewed: when the first run ends, BullMQ stops to renew the lock of the later one too
 *
 * So each run is told apart by its lock's token.
 */
export class BullWorker extends Worker {
  /** Called with a job and the token by which its lock could not be renewed. */
  onLockLost: (id: string, token: string | undefined) => void = () => {};
  /** The newest run of each job. */
  readonly #newest = new Map<string, { readonly token: string; readonly taken: number | undefined }>();

  override async extendJobLocks(ids: string[], tokens: string[], duration: number): Promise<string[]> {
    const lost = await super.extendJobLocks(ids, tokens, duration);
    for (const id of lost) this.onLockLost(id, tokens[ids.indexOf(id)]);
    return lost;
  }

  override async processJob(...parameters: Parameters<Worker['processJob']>): ReturnType<Worker['processJob']> {
    const [{ id, processedOn }, token] = parameters as [Job, string];
    if (id === undefined) return super.processJob(...parameters);
    const run = { token, taken: processedOn };
    this.#newest.set(id, run);
    try {
      return await super.processJob(...parameters);
    } finally {
      const newest = this.#newest.get(id);
      if (newest === run) this.#newest.delete(id);
      else if (newest !== undefined) this.lockManager.trackJob(id, newest.token, newest.taken ?? Date.now());
    }
  }
}
