import { checksummed, padded } from '../support/tar.ts';
import { brokenRecord } from './archives.ts';
import type { Random } from './random.ts';

/** Offsets and lengths of the numeric fields of a header (POSIX ustar; the last are GNU's). */
const FIELDS: readonly (readonly [number, number])[] = [
  [100, 8], // mode
  [108, 8], // uid
  [116, 8], // gid
  [124, 12], // size
  [124, 12],
  [136, 12], // mtime
  [329, 8], // devmajor
  [337, 8], // devminor
  [345, 12], // atime
  [386, 12], // first sparse offset
  [398, 12],
  [483, 12], // real size of a sparse file
];

const VALUES = [
  ...['00000000000\0', '00000000001\0', '00000001000\0', '77777777777\0', '           \0', '\0\0\0\0\0\0\0\0\0\0\0\0'],
  ...[
    '\x80\0\0\0\0\0\0\0\0\0\x10\0',
    '\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff',
    '\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff',
  ],
  ...['\x80\0\0\0\0\x1f\xff\xff\xff\xff\xff\xff', '00000000008\0', '-0000000001\0', '0000000 100\0', '1\x002\x003\0'],
];

const FLAGS = [...'0123456 7SxgLKVMDNX'];

/** Changes an archive, given in pieces of whole blocks. The result may be invalid. */
export function mutate(pieces: readonly Buffer[], random: Random, other: readonly Buffer[]): Buffer {
  const all = [...pieces];
  for (let changes = random.oneIn(3) ? 1 + random.below(3) : 0; changes > 0; changes--)
    changePieces(all, random, other);
  let archive: Buffer = Buffer.concat(all);
  if (random.oneIn(16)) archive = flipped(archive, random);
  if (random.oneIn(16)) archive = archive.subarray(0, random.below(archive.length + 1));
  if (random.oneIn(20)) archive = Buffer.concat([archive, random.bytes(random.below(700))]);
  return archive;
}

function changePieces(all: Buffer[], random: Random, other: readonly Buffer[]): void {
  const at = random.below(all.length);
  const piece = all[at];
  if (piece === undefined || piece.length === 0) return;
  switch (random.below(8)) {
    case 0: // again, elsewhere
      all.splice(random.below(all.length), 0, piece);
      return;
    case 1:
      if (all.length > 1) all.splice(at, 1);
      return;
    case 2: {
      const from = other[random.below(other.length)];
      if (from !== undefined) all.splice(at, 0, from);
      return;
    }
    case 3: // content without its header, or the other way round
      all[at] = random.oneIn(2) ? piece.subarray(512) : piece.subarray(0, 512);
      return;
    case 4:
      all[at] = withRecord(piece, random);
      return;
    default:
      all[at] = withField(Buffer.from(piece), random);
  }
}

/** Changes one field of one header, and corrects the checksum. */
function withField(piece: Buffer, random: Random): Buffer {
  const blocks = Math.max(1, Math.floor(piece.length / 512));
  const at = 512 * (random.oneIn(2) ? 0 : random.below(blocks));
  const block = piece.subarray(at, at + 512);
  if (block.length < 512) return piece;
  switch (random.below(6)) {
    case 0:
      block.write(random.pick(FLAGS), 156, 1, 'latin1');
      break;
    case 1: // magic and version
      block.write(
        random.pick(['ustar\x0000', 'ustar  \0', 'ustar\0\0\0', '\0\0\0\0\0\0\0\0', 'USTAR\x0000']),
        257,
        'latin1',
      );
      break;
    case 2: // the prefix of ustar, the mark of star, the last sparse flag
      block.write(random.pick(['../..', 'a', '/', 'x'.repeat(155)]), 345, 'latin1');
      if (random.oneIn(3)) block.write('tar\0', 508, 'latin1');
      break;
    case 3:
      block[random.below(512)] = random.below(256);
      break;
    default: {
      const [offset, length] = random.pick(FIELDS);
      const value = Buffer.from(random.pick(VALUES), 'latin1');
      // the end of a field counts most in base 256, the start in octal
      value.copy(block, offset, (value[0] ?? 0) >= 0x80 ? 0 : Math.max(0, value.length - length), value.length);
    }
  }
  checksummed(block);
  return piece;
}

/** Adds a record, usually a malformed one, to a PAX header. */
function withRecord(piece: Buffer, random: Random): Buffer {
  const flag = piece[156];
  if (flag !== 0x78 && flag !== 0x67) return withField(Buffer.from(piece), random);
  const header = Buffer.from(piece.subarray(0, 512));
  const size = Number.parseInt(header.toString('latin1', 124, 135), 8);
  if (!(size < 4096)) return piece;
  const records = Buffer.concat([piece.subarray(512, 512 + size), brokenRecord(random)]);
  header.write(`${records.length.toString(8).padStart(11, '0')}\0`, 124, 'latin1');
  const rest = piece.subarray(512 + Math.ceil(size / 512) * 512);
  return Buffer.concat([checksummed(header), padded(records), rest]);
}

export function flipped(bytes: Buffer, random: Random): Buffer {
  if (bytes.length === 0) return bytes;
  const copy = Buffer.from(bytes);
  for (let flips = 1 + random.below(4); flips > 0; flips--) {
    const at = random.below(copy.length);
    copy[at] = (copy[at] ?? 0) ^ (1 << random.below(8));
  }
  return copy;
}
