import { gnuLong, type Member, member, paxHeader, paxRecord } from '../support/tar.ts';
import type { Random } from './random.ts';

/**
 * Random archives that are mostly valid: entries of every type and format, with few names, so that they conflict, and with
 * names, links and records that attacks use.
 */

const PARTS = [
  ...['a', 'b', 'c', 'd', 'a', 'b', 'c', 'l', 'm', 'deep', '..', '..', '.', ''],
  ...['.wh.a', '.wh.b', '.wh.l', '.wh.d', '.wh..wh..opq', '.wh..wh..opq'],
  ...['outside', 'canary', 'root', '\xff\xfe', 'n\nl', 'x'.repeat(99), 'y'.repeat(255)],
];

const TYPES = [...'00000555552222111346\0'];
const ODD_TYPES = [...'S7xgLKVMDNX\xff\t', ''];

const NUMBERS = [
  ...['0', '1', '5', '512', '1000', '-1', '+7', '65536', '4294967295', '4294967296', '9007199254740993'],
  ...['9223372036854775807', '-9223372036854775808', ''],
];

const TIMES = [
  ...['0', '1600000000.123456789', '-1.5', '9223372036.854775807', '9223372036.854775808', '1.', '-0.000000001'],
  '1600000000.1234567891234567',
];

/** Names that are refused or ignored. */
const ODD_PARTS = ['.wh..wh.plnk', '.wh..wh.aufs', '.wh.', '.wh..', '.wh...', '.wh...wh.a', 'z'.repeat(256)];

/** Malformed. */
const NO_NUMBERS = ['9223372036854775808', ' 1', '1e3', '0x10', '1.5', '٣', '-', '1.-5', 'NaN', '.5'];

const XATTRS = [
  ...['user.a', 'user.b', 'trusted.overlay.opaque', 'trusted.overlay.redirect', 'trusted.overlay.metacopy', 'user.'],
  ...[
    'user.overlay.opaque',
    'security.capability',
    'security.x',
    'system.posix_acl_access',
    '',
    'nonsense',
    'trusted.x',
  ],
  `user.${'k'.repeat(300)}`,
];

export class Archives {
  private readonly random: Random;
  private readonly outside: string;

  /** @param outside an absolute path that must not be reached */
  constructor(random: Random, outside: string) {
    this.random = random;
    this.outside = outside;
  }

  /** The pieces of an archive: headers with their content. */
  pieces(): Buffer[] {
    const count = 1 + this.random.below(this.random.oneIn(8) ? 24 : 7);
    const pieces: Buffer[] = [];
    for (let i = 0; i < count; i++) {
      if (this.random.oneIn(24)) pieces.push(this.special());
      pieces.push(this.random.oneIn(16) ? this.sparse() : member(this.entry()));
    }
    if (!this.random.oneIn(10)) pieces.push(Buffer.alloc(512 * this.random.below(4)));
    return pieces;
  }

  private entry(): Member {
    const { random } = this;
    const type = random.pick(random.oneIn(60) ? ODD_TYPES : TYPES);
    const isFile = type === '0' || type === '\0' || type === 'S';
    return {
      name: this.name(),
      type,
      content:
        isFile || random.oneIn(30) ? Buffer.alloc(random.oneIn(6) ? random.below(2000) : random.below(20), 0x61) : '',
      mode: random.oneIn(3) ? random.below(0o10000) : 0o755,
      uid: random.oneIn(4) ? random.below(100_000) : 0,
      gid: random.oneIn(8) ? -random.below(5) : 0,
      mtime: random.oneIn(4) ? random.below(2 ** 31) - 1000 : 1_600_000_000,
      format: random.pick(['ustar', 'ustar', 'gnu', 'v7']),
      devMajor: random.oneIn(3) ? 0 : random.below(300),
      devMinor: random.oneIn(3) ? 0 : random.below(300),
      ...(type === '1' || type === '2' || random.oneIn(20) ? { linkName: this.target() } : {}),
      ...(random.oneIn(5) ? { pax: this.records() } : {}),
    };
  }

  private name(): Buffer {
    const { random } = this;
    const parts: string[] = [];
    const depth = 1 + random.below(random.oneIn(40) ? 60 : 4);
    for (let i = 0; i < depth; i++) parts.push(random.pick(random.oneIn(50) ? ODD_PARTS : PARTS));
    const absolute = random.oneIn(8) ? '/' : random.oneIn(8) ? './' : '';
    return Buffer.from(`${absolute}${parts.join('/')}${random.oneIn(6) ? '/' : ''}`, 'latin1');
  }

  private target(): Buffer {
    const { random } = this;
    if (random.oneIn(6)) return Buffer.from(`${this.outside}${random.pick(['', '/canary', '/sub', '/sub/inner'])}`);
    if (random.oneIn(4))
      return Buffer.from(`${'../'.repeat(1 + random.below(6))}outside${random.pick(['', '/canary'])}`);
    if (random.oneIn(10))
      return Buffer.from(random.pick(['..', '.', '/', '../..', '', '/proc/self/root', '/proc/self/cwd']));
    return this.name();
  }

  private records(): (readonly [string, string | Buffer])[] {
    const { random } = this;
    const all: (readonly [string, string | Buffer])[] = [];
    const count = 1 + random.below(3);
    for (let i = 0; i < count; i++) all.push(this.record());
    return all;
  }

  private record(): readonly [string, string | Buffer] {
    const { random } = this;
    switch (random.below(9)) {
      case 0:
        return ['path', this.name()];
      case 1:
        return ['linkpath', this.target()];
      case 2:
        return [
          random.pick(['uid', 'gid', 'uid', 'gid', 'size']),
          random.pick(random.oneIn(12) ? NO_NUMBERS : NUMBERS),
        ];
      case 3:
        return [random.pick(['mtime', 'atime', 'ctime']), random.pick(random.oneIn(12) ? NO_NUMBERS : TIMES)];
      case 4:
      case 5:
        return [`SCHILY.xattr.${random.pick(XATTRS)}`, random.bytes(random.below(24))];
      case 6: {
        const encoded = random.pick(XATTRS).replaceAll('.', () => (random.oneIn(2) ? '%2e' : '.'));
        const value = random.bytes(random.below(9)).toString('base64');
        return [`LIBARCHIVE.xattr.${encoded}${random.oneIn(20) ? '%00' : ''}`, random.oneIn(15) ? '!!' : value];
      }
      case 7:
        return [`GNU.sparse.${random.pick(['major', 'minor', 'size', 'realsize', 'numblocks'])}`, random.pick(NUMBERS)];
      default:
        return [
          random.pick(['uname', 'gname', 'comment', 'k', 'path', 'GNU.sparse.name']),
          random.bytes(random.below(9)),
        ];
    }
  }

  /** What changes the next entry, alone. */
  private special(): Buffer {
    const { random } = this;
    if (random.oneIn(3)) return gnuLong(random.pick(['L', 'K']), random.oneIn(2) ? this.name() : this.target());
    return paxHeader(this.records(), random.pick(['x', 'g']));
  }

  private sparse(): Buffer {
    const { random } = this;
    const name = this.name();
    const count = random.below(5);
    const extents: [number, number][] = [];
    let end = 0;
    for (let i = 0; i < count; i++) {
      const offset = end + random.below(random.oneIn(5) ? 1 << 30 : 3000);
      const length = random.below(700);
      extents.push([offset, length]);
      end = offset + length;
    }
    const stored = extents.reduce((sum, [, length]) => sum + length, 0);
    const content = Buffer.alloc(stored, 0x62);
    const size = String(end + random.below(2000) - (random.oneIn(10) ? 100 : 0));
    switch (random.below(4)) {
      case 0: {
        const pairs = extents.flatMap(([offset, length]) => [
          ['GNU.sparse.offset', String(offset)] as const,
          ['GNU.sparse.numbytes', String(length)] as const,
        ]);
        return member({
          name,
          content,
          pax: [['GNU.sparse.size', size], ['GNU.sparse.numblocks', String(count)], ...pairs],
        });
      }
      case 1:
        return member({
          name,
          content,
          pax: [
            ['GNU.sparse.size', size],
            ['GNU.sparse.numblocks', String(count)],
            ['GNU.sparse.map', extents.flat().join(',')],
          ],
        });
      case 2: {
        const map = Buffer.alloc(512);
        map.write(`${[random.oneIn(12) ? random.pick(NUMBERS) : count, ...extents.flat()].join('\n')}\n`);
        return member({
          name,
          content: Buffer.concat([map, content]),
          pax: [
            ['GNU.sparse.major', '1'],
            ['GNU.sparse.minor', '0'],
            ['GNU.sparse.name', this.name()],
            ['GNU.sparse.realsize', size],
          ],
        });
      }
      default:
        return member({
          name,
          type: 'S',
          format: 'gnu',
          content,
          patch: (block) => {
            for (const [i, [offset, length]] of extents.slice(0, 4).entries()) {
              block.write(`${offset.toString(8).padStart(11, '0')}\0`, 386 + i * 24, 'latin1');
              block.write(`${length.toString(8).padStart(11, '0')}\0`, 386 + i * 24 + 12, 'latin1');
            }
            if (random.oneIn(4)) block[482] = 1;
            block.write(`${Number(size).toString(8).padStart(11, '0')}\0`, 483, 'latin1');
          },
        });
    }
  }
}

/** A PAX record with a wrong length. */
export function brokenRecord(random: Random): Buffer {
  const record = paxRecord('path', 'x'.repeat(random.below(20)));
  record[0] = 0x30 + random.below(10);
  return record;
}
