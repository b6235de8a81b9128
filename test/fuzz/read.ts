import { createHash, type Hash } from 'node:crypto';
import type { EntrySink, TarEntry } from '../../src/archive/entry.ts';
import { TarReader } from '../../src/archive/tar-reader.ts';
import { lentNow } from '../support/lent.ts';
import { type Outcome, refusal, sameOutcome, show } from './outcome.ts';

export const LIMITS = { uncompressedBytes: 1 << 26, entries: 200, entryMetadataBytes: 1 << 16 };

/** A digest of all entries and all content, independent of the pieces of the content. */
class Telling implements EntrySink {
  private readonly hash: Hash = createHash('sha1');
  private next = -1;
  private open = false;

  entry(entry: TarEntry): void {
    if (this.open) throw new Error('an entry before the end of the last file');
    this.open = entry.type === 'file';
    this.next = -1;
    const { xattrs, name, linkName, ...rest } = entry;
    this.hash.update(JSON.stringify(rest)).update(name).update('\n').update(linkName);
    for (const [key, value] of xattrs ?? []) this.hash.update(key).update(value);
  }

  data(bytes: Buffer, position: number): void {
    if (!this.open || bytes.length === 0 || position < this.next) throw new Error('content out of place');
    if (position !== this.next) this.hash.update(`@${position}`);
    this.hash.update(bytes);
    this.next = position + bytes.length;
  }

  end(): void {
    if (!this.open) throw new Error('an end without a file');
    this.open = false;
    this.hash.update('.');
  }

  digest(): string {
    return this.hash.digest('hex');
  }
}

function read(archive: Buffer, cut: number): { outcome: Outcome; told: string } {
  const telling = new Telling();
  const reader = new TarReader(telling, LIMITS);
  let outcome: Outcome = 'ok';
  try {
    for (const piece of lentNow(archive, cut)) reader.write(piece);
    reader.finish();
  } catch (error) {
    outcome = refusal(error);
  }
  return { outcome, told: telling.digest() };
}

/** Reads an archive in one piece and in several. @throws if the results differ, or for an error that is no refusal */
export function checkReading(archive: Buffer, cut: number): Outcome {
  const whole = read(archive, Math.max(1, archive.length));
  const pieces = read(archive, cut);
  if (!sameOutcome(whole.outcome, pieces.outcome)) {
    throw new Error(`whole: ${show(whole.outcome)}; in pieces of ${cut}: ${show(pieces.outcome)}`);
  }
  if (whole.told !== pieces.told && whole.outcome === 'ok') throw new Error(`pieces of ${cut} tell something else`);
  return whole.outcome;
}
