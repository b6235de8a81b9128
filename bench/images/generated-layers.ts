import { directory, headerBlock, padded } from '../../test/support/tar.ts';

/** A layer whose tar is generated piece by piece, with the same bytes in every run. Scenarios make images of them. */
export interface GeneratedLayer {
  readonly title: string;
  readonly pieces: Iterable<Buffer>;
  readonly entries: number;
}

const END = Buffer.alloc(1024);
const FILES_A_DIRECTORY = 100;
const PIECE = 1 << 20;

/** `count` files of 200 B to 8 KiB, a hundred in each directory. They compress as well as source code. */
export function smallFiles(count: number): GeneratedLayer {
  return files(`${count} small files`, count, (random) => 200 + Math.floor(random() ** 3 * 8000));
}

/** `count` files of a hundred bytes. */
export function tinyFiles(count: number): GeneratedLayer {
  return files(`${count} tiny files`, count, () => 100);
}

/** One file that is a third as large when compressed. */
export function oneFile(bytes: number): GeneratedLayer {
  const random = generator(1);
  const pool = textPool(random);
  return single(`one file of ${bytes} bytes`, bytes, () => slice(pool, random, PIECE));
}

/** One file that does not compress. */
export function randomFile(bytes: number): GeneratedLayer {
  const random = generator(2);
  return single(`one file of ${bytes} random bytes`, bytes, () => {
    const piece = Buffer.allocUnsafe(PIECE);
    for (let at = 0; at < PIECE; at += 4) piece.writeUInt32LE(Math.floor(random() * 2 ** 32), at);
    return piece;
  });
}

/** Layers with one small file each. */
export function* thinLayers(count: number): Generator<GeneratedLayer> {
  for (let index = 0; index < count; index++) {
    const content = Buffer.from(`the file of layer ${index}\n`.repeat(40));
    const head = headerBlock({ name: `srv/layer-${index}.txt`, size: content.length });
    const pieces = [Buffer.concat([directoryBlock('srv'), head, padded(content), END])];
    yield { title: `layer ${index}`, entries: 2, pieces };
  }
}

/**
 * The same file of zeros, repeated. The layer may be very long, but it needs no more disk space than one of the files.
 */
export function rewrittenFile(times: number, bytes: number): GeneratedLayer {
  const zeros = Buffer.alloc(PIECE);
  return {
    title: `a file of ${bytes} bytes, written ${times} times`,
    entries: times,
    pieces: (function* () {
      for (let time = 0; time < times; time++) {
        yield headerBlock({ name: 'again', size: bytes });
        for (let left = bytes; left > 0; left -= PIECE) yield left < PIECE ? padded(zeros.subarray(0, left)) : zeros;
      }
      yield END;
    })(),
  };
}

function files(title: string, count: number, sizeOf: (random: () => number) => number): GeneratedLayer {
  const directories = Math.ceil(count / FILES_A_DIRECTORY);
  return {
    title,
    entries: count + directories + 1,
    pieces: (function* () {
      const random = generator(count);
      const pool = textPool(random);
      yield directoryBlock('srv');
      for (let index = 0; index < count; index++) {
        const folder = `srv/folder-${Math.floor(index / FILES_A_DIRECTORY)}`;
        if (index % FILES_A_DIRECTORY === 0) yield directoryBlock(folder);
        const content = slice(pool, random, sizeOf(random));
        const head = headerBlock({ name: `${folder}/file-${index}.js`, size: content.length });
        yield Buffer.concat([head, padded(content)]);
      }
      yield END;
    })(),
  };
}

function single(title: string, bytes: number, next: () => Buffer): GeneratedLayer {
  return {
    title,
    entries: 1,
    pieces: (function* () {
      yield headerBlock({ name: 'data.bin', size: bytes });
      for (let left = bytes; left > 0; left -= PIECE) {
        const piece = next();
        yield left < PIECE ? padded(piece.subarray(0, left)) : piece;
      }
      yield END;
    })(),
  };
}

function directoryBlock(name: string): Buffer {
  return headerBlock(directory(`${name}/`));
}

function slice(pool: Buffer, random: () => number, length: number): Buffer {
  const at = Math.floor(random() * (pool.length - length));
  return pool.subarray(at, at + length);
}

/** Eight megabytes of words with some random numbers between them. gzip compresses them to a third. */
function textPool(random: () => number): Buffer {
  const words = Array.from({ length: 4000 }, () => {
    const length = 2 + Math.floor(random() * 9);
    return Array.from({ length }, () => String.fromCharCode(97 + Math.floor(random() * 26))).join('');
  });
  const pool = Buffer.alloc(8 << 20);
  for (let at = 0; at < pool.length; ) {
    // small indexes come more often, as frequent words do in a language
    const word = words[Math.floor(random() ** 2 * words.length)] ?? '';
    const next = random() < 0.1 ? `${Math.floor(random() * 1e9).toString(36)};\n` : `${word} `;
    at += pool.write(next, at);
  }
  return pool;
}

/** Random numbers, the same in every run, so that two runs unpack the same bytes (mulberry32). */
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
