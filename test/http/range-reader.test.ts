import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises';
import { UnpackError } from '../../src/errors.ts';
import { WINDOW, windowOf } from '../../src/http/connection-plan.ts';
import { RangeReader, type RangeReaderOptions } from '../../src/http/range-reader.ts';
import { SEGMENT_BUFFER, type Segment } from '../../src/http/segment.ts';
import { SpareBuffers } from '../../src/system/spare-buffers.ts';
import { OVERWRITTEN } from '../support/lent.ts';

const MiB = 1024 * 1024;

/** Counts the taken buffers, and overwrites each one that is given back, as another download would. */
class CountedBuffers extends SpareBuffers {
  held = 0;
  mostHeld = 0;

  override take(): Buffer {
    this.held += 1;
    this.mostHeld = Math.max(this.mostHeld, this.held);
    return super.take();
  }

  override give(piece: Buffer): void {
    this.held -= 1;
    piece.fill(OVERWRITTEN);
    super.give(piece);
  }
}

/** The transfer of one segment, which the test sends. */
interface Sending {
  readonly segment: Segment;
  left: number;
  stopped: boolean;
  cancelled: boolean;
}

/** A reader of a blob in which every 4 bytes are their own offset, with its transfers. */
class Download {
  readonly pieces = new CountedBuffers(SEGMENT_BUFFER);
  readonly sendings: Sending[] = [];
  readonly reader: RangeReader;
  /** The failed check of a chunk. Nothing is sent after it, because its test could wait for ever. */
  wrong: unknown;

  constructor(size: number, more: Partial<RangeReaderOptions> = {}) {
    this.reader = new RangeReader({
      offset: 0,
      end: size,
      ranges: true,
      window: () => WINDOW,
      buffers: this.pieces,
      what: 'the blob',
      idleTimeout: 1000,
      signal: undefined,
      request: (segment) => {
        const sending = { segment, left: segment.range.to - segment.range.from, stopped: false, cancelled: false };
        this.sendings.push(sending);
        return {
          resume: () => {
            sending.stopped = false;
          },
          cancel: () => {
            sending.cancelled = true;
          },
        };
      },
      ...more,
    });
  }

  /** Transfers that have not ended. */
  get active(): Sending[] {
    return this.sendings.filter(({ left, cancelled }) => left > 0 && !cancelled);
  }

  /** Sends up to `most` bytes of each transfer that is not paused. @returns the number of sent bytes */
  send(most: number, sendings = this.active): number {
    if (this.wrong !== undefined) throw this.wrong;
    let sent = 0;
    for (const sending of sendings) {
      const { segment } = sending;
      if (!segment.answered) segment.answer();
      for (let room = most; room > 0 && sending.left > 0 && !sending.stopped && !sending.cancelled; ) {
        const bytes = segment.buffer();
        const count = Math.min(bytes.length, room, sending.left, 64 * 1024);
        const { position: place } = segment;
        for (let at = 0; at < count; at += 4) bytes.writeUInt32LE(place + at, at);
        sending.left -= count;
        sending.stopped = !segment.filled(count);
        room -= count;
        sent += count;
      }
      if (sending.left === 0 && !sending.cancelled) segment.end();
    }
    return sent;
  }
}

/** Reads a chunk and checks its bytes, in a later turn, because a reader of chunks may wait. @returns its length */
async function readOne(download: Download, place: number): Promise<number> {
  const { value } = await download.reader.next();
  await turn();
  try {
    for (let at = 0; at < (value?.length ?? 0); at += 4096) assert.equal(value?.readUInt32LE(at), place + at);
  } catch (error) {
    download.wrong = error;
    throw error;
  }
  return value?.length ?? 0;
}

/** Reads the rest. @returns the offset of the end */
async function readAll(download: Download, place: number): Promise<number> {
  let end = place;
  for (let count = -1; count !== 0; end += count) count = await readOne(download, end);
  return end;
}

/** A download whose first bytes have arrived. */
async function begun(size: number, more: Partial<RangeReaderOptions> = {}): Promise<Download> {
  const download = new Download(size, more);
  const beginning = download.reader.begin();
  download.send(64 * 1024);
  await beginning;
  return download;
}

/** Reads so fast that the reader always waits, until so many ranges arrive at the same time. @returns the offset of the reader */
async function starve(download: Download, ranges: number): Promise<number> {
  let got = await readOne(download, 0);
  for (let steps = 0; download.active.length < ranges; steps++) {
    assert.ok(steps < 100, `${download.active.length} ranges at once`);
    const reading = readOne(download, got);
    await sleep(3);
    for (const { segment } of download.active) if (!segment.answered) segment.answer();
    download.send(64 * 1024, download.active.slice(0, 1));
    got += await reading;
  }
  return got;
}

describe('the range reader', () => {
  test('reads in order, whichever range arrives first, and returns its buffers', async () => {
    const size = 30 * MiB + 4;
    const download = await begun(size);
    const reading = readAll(download, 0);
    while (download.active.length > 0) {
      download.send(MiB, download.active.toReversed());
      await sleep(1);
    }
    assert.equal(await reading, size);
    assert.equal(download.pieces.held, 0);
  });

  test('uses one connection, a megabyte ahead, if the consumer never waits', async () => {
    const download = await begun(100 * MiB);
    for (let got = 0; got < 100 * MiB; ) {
      while (download.send(8 * MiB) > 0);
      got += await readOne(download, got);
      assert.ok(download.active.length <= 1);
    }
    assert.ok(download.pieces.mostHeld * SEGMENT_BUFFER <= 2 * MiB, `${download.pieces.mostHeld} pieces`);
  });

  test('uses eight connections if the consumer waits, with growing first ranges', async () => {
    const download = await begun(300 * MiB);
    const reading = readAll(download, 0);
    let most = 0;
    while (download.active.length > 0) {
      await sleep(2);
      download.send(256 * 1024);
      most = Math.max(most, download.active.length);
    }
    assert.equal(await reading, 300 * MiB);
    assert.ok(most >= 8 && most <= 8 + 2, `${most} ranges at once`);
    assert.deepEqual(
      download.sendings.slice(1, 10).map(({ segment: { range } }) => (range.to - range.from) / MiB),
      [2, 3, 4, 5, 6, 7, 8, 8, 8],
    );
    // the first request was for everything, and ended at the first range
    const [first, second] = download.sendings;
    assert.equal(first?.segment.range.to, second?.segment.range.from);
    assert.equal(first?.cancelled, true);
    // on average half of eight ranges has arrived, and of two that were requested early
    assert.ok(download.pieces.mostHeld <= WINDOW / SEGMENT_BUFFER + 8 + 2 + 1, `${download.pieces.mostHeld} pieces`);
  });

  test('requests a range before another one has ended', async () => {
    const download = await begun(300 * MiB, { idleTimeout: 60_000 });
    const got = await starve(download, 8);
    const reading = readAll(download, got);
    reading.catch(() => {}); // the test does not await it
    const [, range] = download.sendings;
    assert.ok(range !== undefined);
    const asked = download.sendings.length;
    while (download.sendings.length === asked && range.left > 4) {
      download.send(Math.min(64 * 1024, range.left - 4), [range]);
      await turn();
    }
    assert.equal(range.segment.ended, false);
    assert.equal(download.sendings.length, asked + 1);
    await download.reader.return();
  });

  test('requests at most two ranges early', async () => {
    const download = await begun(300 * MiB, { idleTimeout: 60_000 });
    const got = await starve(download, 8);
    const reading = readAll(download, got);
    reading.catch(() => {}); // the test does not await it
    // all of them end soon, at the same time
    const ending = download.active;
    for (let last = 8 * MiB; last > 0; last -= 64 * 1024) {
      for (const sending of ending) download.send(Math.min(64 * 1024, sending.left - 4), [sending]);
      await turn();
    }
    assert.deepEqual(
      ending.map(({ left }) => left <= 4),
      ending.map(({ segment }) => segment.endsSoon),
    );
    assert.equal(download.active.length, 8 + 2);
    await download.reader.return();
  });

  test('adds connections while the consumer waits for an eighth of its time', async () => {
    const download = await begun(300 * MiB, { idleTimeout: 60_000 });
    let got = await readOne(download, 0);
    for (let most = 1; most < 8; most = Math.max(most, download.active.length)) {
      assert.ok(got < 20 * MiB, `${most} ranges at once`);
      const began = performance.now();
      const reading = readOne(download, got);
      await sleep(2);
      download.send(64 * 1024);
      got += await reading;
      // it waits for two thirds of its time until ranges are tried, then for one third
      const now = performance.now();
      const until = now + (now - began) * (download.sendings.length === 1 ? 1 / 2 : 2);
      while (performance.now() < until);
    }
    await download.reader.return();
  });

  for (const window of [4 * MiB, 20 * MiB, WINDOW]) {
    test(`holds at most ${window / MiB} MiB and a buffer for each connection`, async () => {
      const download = await begun(300 * MiB, { window: () => window });
      // two are requested early, and one buffer is being read
      const limit = window / SEGMENT_BUFFER + 8 + 2 + 1;
      const got = await starve(download, 8);
      // now the consumer is busy
      while (download.send(8 * MiB) > 0);
      assert.ok(download.pieces.mostHeld > limit / 2);
      assert.ok(download.pieces.mostHeld <= limit, `${download.pieces.mostHeld} pieces are more than ${limit}`);
      // paused transfers continue
      const reading = readAll(download, got);
      while (download.active.length > 0) {
        download.send(8 * MiB);
        await turn();
      }
      assert.equal(await reading, 300 * MiB);
      assert.ok(download.pieces.mostHeld <= limit, `${download.pieces.mostHeld} pieces are more than ${limit}`);
    });
  }

  test('shares the memory of four downloads between more downloads', () => {
    assert.deepEqual([1, 4, 8, 32].map(windowOf), [WINDOW, WINDOW, WINDOW / 2, WINDOW / 8]);
    assert.ok(4 * WINDOW <= 200e6 * 1.01);
  });

  test('lets Node read sockets if the consumer never waits', async () => {
    const download = await begun(100 * MiB);
    let turns = 0;
    let counting = setImmediate(function count() {
      turns++;
      counting = setImmediate(count);
    });
    for (let got = 0; got < 20 * MiB; ) {
      download.send(8 * MiB);
      got += await readOne(download, got);
    }
    clearImmediate(counting);
    assert.ok(turns >= 20, `${turns} turns`);
  });

  test('continues with the first request only if a range fails', async () => {
    const download = await begun(30 * MiB);
    const got = await starve(download, 3);
    download.sendings[2]?.segment.fail(new UnpackError('SOURCE_UNAVAILABLE', 'made up by the test'));
    assert.equal(download.active.length, 1);
    const asked = download.sendings.length;
    const reading = readAll(download, got);
    while (download.active.length > 0) {
      download.send(MiB);
      await turn();
    }
    assert.equal(await reading, 30 * MiB);
    assert.equal(download.sendings.length, asked);
    assert.equal(download.pieces.held, 0);
  });

  test('reports a failed range when it is read next, and requests nothing after it', async () => {
    const download = await begun(100 * MiB);
    let end = await starve(download, 4);
    const [first, second, third] = download.sendings;
    assert.ok(first !== undefined && second !== undefined && third !== undefined);
    while (!first.segment.ended) {
      download.send(64 * 1024, [first]);
      end += await readOne(download, end);
    }
    const asked = download.sendings.length;
    third.segment.fail(new UnpackError('SOURCE_UNAVAILABLE', 'made up by the test'));
    assert.deepEqual(download.active, [second, third], 'nobody waits for what comes after it');
    await assert.rejects(
      async () => {
        for (;;) {
          download.send(8 * MiB, [second]);
          end += await readOne(download, end);
        }
      },
      { code: 'SOURCE_UNAVAILABLE', message: 'made up by the test' },
    );
    assert.equal(end, third.segment.range.from);
    assert.equal(download.sendings.length, asked);
    assert.equal(download.pieces.held, 0);
  });

  /** A server with a speed for each connection, and a latency for ranges. */
  async function serve(download: Download, speed: number, latency: number): Promise<number> {
    const asked = new Map<Sending, number>();
    const reading = readAll(download, await readOne(download, 0));
    for (let before = performance.now(); download.active.length > 0; ) {
      await sleep(1);
      const now = performance.now();
      const most = Math.ceil(((now - before) * speed) / 4) * 4;
      before = now;
      for (const sending of download.active) {
        if (!asked.has(sending)) asked.set(sending, now);
        const isFirst = sending === download.sendings[0];
        if (isFirst || now - (asked.get(sending) ?? now) >= latency) download.send(most, [sending]);
      }
    }
    return reading;
  }

  test('uses no ranges if their latency is longer than the time that they save', async () => {
    let noGain = 0;
    const download = await begun(100 * MiB, { onNoGain: () => noGain++ });
    assert.equal(await serve(download, 200_000, 300), 100 * MiB);
    const [first, ...ranges] = download.sendings;
    assert.equal(first?.cancelled, false, 'the first request has brought everything');
    assert.ok(ranges.length <= 3, `${ranges.length} ranges were asked for`);
    assert.equal(download.pieces.held, 0);
  });

  test('drops a range without an answer that the first request has reached', async () => {
    const download = await begun(20 * MiB);
    let got = await readOne(download, 0);
    for (let steps = 0; download.active.length < 2; steps++) {
      assert.ok(steps < 100);
      const reading = readOne(download, got);
      await sleep(3);
      download.send(64 * 1024, download.active.slice(0, 1));
      got += await reading;
    }
    const [first, range] = download.sendings;
    assert.ok(first !== undefined && range !== undefined);
    const reading = readAll(download, got);
    while (first.left > 0) {
      download.send(MiB, [first]);
      await turn();
    }
    assert.equal(await reading, 20 * MiB);
    assert.equal(range.cancelled, true);
    assert.equal(first.cancelled, false);
  });

  test('discards bytes after the end of a range, and ends after a range that is too short', async () => {
    const download = await begun(100 * MiB);
    let end = await starve(download, 4);
    const [first, second, third] = download.sendings;
    assert.ok(first !== undefined && second !== undefined && third !== undefined);
    // a server may ignore the end of a range
    second.left += 4 * MiB;
    third.left = MiB;
    const reading = readAll(download, end);
    while (download.active.length > 0) {
      download.send(
        MiB,
        [first, second, third].filter(({ cancelled, left }) => left > 0 && !cancelled),
      );
      await turn();
    }
    end = await reading;
    assert.equal(end, third.segment.range.from + MiB);
    assert.equal(download.pieces.held, 0);
  });

  test('fails below the minimum speed, but not while its consumer is busy', async () => {
    const minimumSpeed = { bytesPerSecond: 1_000_000, over: 60 };
    const dripping = await begun(100 * MiB, { minimumSpeed });
    const got = await readOne(dripping, 0);
    const reading = readAll(dripping, got);
    const drip = setInterval(() => dripping.send(4), 5);
    await assert.rejects(reading, { code: 'SOURCE_UNAVAILABLE', message: /the blob: \d+ bytes came in 0\.06 s/ });
    clearInterval(drip);
    assert.ok(dripping.sendings.every(({ cancelled }) => cancelled));

    const busy = await begun(MiB, { minimumSpeed });
    let place = 0;
    while (place < MiB) {
      place += await readOne(busy, place);
      // the thread writes to a slow disk
      await sleep(100);
      busy.send(128 * 1024);
    }
    // a read waits while its thread is blocked
    const blocked = await begun(2 * 64 * 1024, { minimumSpeed });
    const start = await readOne(blocked, 0);
    const last = readOne(blocked, start);
    setTimeout(() => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 300), 1);
    setTimeout(() => blocked.send(64 * 1024), 2);
    assert.equal(await last, 64 * 1024);
  });

  test('accepts slow bytes, if no pause is as long as the idle timeout', async () => {
    const slow = await begun(64 * 1024 + 80, { idleTimeout: 50 });
    let place = await readOne(slow, 0);
    for (let sent = 0; sent < 80; sent += 4) {
      const reading = readOne(slow, place);
      // both timers are late on a slow machine, and this one is always due first
      await sleep(10);
      slow.send(4);
      place += await reading;
    }
    assert.equal(place, 64 * 1024 + 80);
  });

  test('reports after the idle timeout whether the answer or bytes are missing', async () => {
    const silent = new Download(100 * MiB, { idleTimeout: 20 });
    await assert.rejects(silent.reader.begin(), { message: 'the blob: no answer came for 0.02 s' });
    const stalled = await begun(100 * MiB, { idleTimeout: 20 });
    const got = await readOne(stalled, 0);
    await assert.rejects(readOne(stalled, got), { message: 'the blob: no bytes came for 0.02 s' });
    for (const { pieces, sendings } of [silent, stalled]) {
      assert.equal(pieces.held, 0);
      assert.ok(sendings.every(({ cancelled }) => cancelled));
    }
  });

  test('returns its buffers if the consumer stops early', async () => {
    const download = await begun(100 * MiB);
    download.send(MiB);
    await download.reader.return();
    assert.equal(download.pieces.held, 0);
    assert.equal(download.active.length, 0);
  });
});
