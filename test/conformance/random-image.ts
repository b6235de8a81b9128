import fc from 'fast-check';
import { defaultAcl } from '../support/acl.ts';
import { gnuLong, type Member, member, tar } from '../support/tar.ts';
import { show } from './exact-tree.ts';

/** One entry of a random layer, for the tar builder. The path is split into names, so that rules can look at them. */
export interface RandomEntry {
  readonly kind: 'file' | 'directory' | 'symlink' | 'hardlink' | 'device' | 'fifo' | 'whiteout' | 'opaque';
  /** Names from the root down. For a whiteout: the deleted path. For an opaque marker: the directory. */
  readonly path: readonly Buffer[];
  /** Text before and after the path in the archive that does not change its meaning: `./`, `/`, `../`. */
  readonly before: string;
  readonly after: string;
  readonly target: string;
  readonly content: string;
  /** For a directory: the form of archives before 1988, a name that ends with a slash, without a type. */
  readonly old?: boolean;
  readonly fields: Pick<Member, 'mode' | 'uid' | 'gid' | 'mtime' | 'pax' | 'devMajor' | 'devMinor'>;
}

export type RandomLayer = readonly RandomEntry[];
export type RandomImage = readonly RandomLayer[];

const TYPE = {
  file: '0',
  hardlink: '1',
  symlink: '2',
  device: '3',
  directory: '5',
  fifo: '6',
  whiteout: '0',
  opaque: '0',
};
/** Only a few names, so that entries often have the same path. */
const NAMES = ['a', 'b', 'c', 'd'].map((name) => Buffer.from(name));
const ODD_NAMES = [
  Buffer.from([0x61, 0xff, 0xfe]),
  Buffer.from('new\nline ü'),
  Buffer.from('n'.repeat(101)),
  Buffer.from('...'),
  // as the first name, it makes an archive begin like gzip data
  Buffer.from('1f8b0861', 'hex'),
];
const PLNK = Buffer.from('.wh..wh.plnk');
/** The only name that is deleted in layers with links. No other entry has it: see `layerWithLinks`. */
const DELETED = Buffer.from('x');

const name = fc.oneof(
  { arbitrary: fc.constantFrom(...NAMES), weight: 12 },
  { arbitrary: fc.constantFrom(...ODD_NAMES), weight: 1 },
);
const path = fc.array(name, { minLength: 1, maxLength: 3 });
const usually = <T>(value: T, ...others: T[]) =>
  fc.oneof({ arbitrary: fc.constant(value), weight: 9 }, ...others.map((arbitrary) => fc.constant(arbitrary)));

const mtime = fc.integer({ min: 0, max: 1_600_000_000 });
const pax = fc.oneof(
  { arbitrary: fc.constant(undefined), weight: 6 },
  mtime.map((seconds) => [['mtime', `${seconds}.123456789`] as const]),
  mtime.map((seconds) => [['atime', `${seconds}.5`] as const]),
  fc
    .tuple(
      fc.constantFrom('user.one', 'user.two', 'security.conformance', 'trusted.no'),
      fc.constantFrom('value', 'value', ''),
    )
    .map(([key, value]) => [[`SCHILY.xattr.${key}`, value] as const]),
  fc.constant([['uid', `${'0'.repeat(60)}7`] as const]),
);
/** For directories: new files in them inherit it. */
const inherited = fc.option(
  fc.constantFrom(
    'user::rwx,user:1000:rwx,group::r-x,mask::rwx,other::r-x',
    'user::r--,group::---,group:8:rw-,mask::r--,other::---',
    'user::rwx,group::r--,other::---',
  ),
  { freq: 8, nil: undefined },
);
const fields = fc
  .record({
    mode: fc.constantFrom(0o644, 0o755, 0o700, 0, 0o4755, 0o2755, 0o1777),
    uid: fc.constantFrom(0, 1, 1000, 65_534),
    gid: fc.constantFrom(0, 1, 1000),
    mtime,
    pax,
    devMajor: fc.constantFrom(1, 0, 259),
    devMinor: fc.constantFrom(3, 0, 70_000),
  })
  .map(({ pax: records, ...rest }) => (records === undefined ? rest : { ...rest, pax: records }));

/** Missing names and `..` after them, which remove each other. */
const DETOURS = ['missing/../', 'missing/too/../../'];
/**
 * `..` comes only first, or after a missing name. After a link, containerd removes `..` together with the link's name,
 * wherever the link leads (README.md).
 */
const target = fc
  .tuple(
    usually('', '/', '../', './', '../../', ...DETOURS, `/${DETOURS[0]}`),
    fc.array(fc.constantFrom(...NAMES), { minLength: 1, maxLength: 2 }),
    usually('', '/', '/.'),
  )
  .map(([before, names, after]) => `${before}${names.join('/')}${after}`);

function entry(...kinds: RandomEntry['kind'][]): fc.Arbitrary<RandomEntry> {
  return fc
    .record({
      kind: fc.constantFrom(...kinds),
      path,
      before: usually('', './', '/', '../', 'z/../'),
      after: fc.constantFrom('', '', '', '/'),
      target,
      content: fc.constantFrom('', 'x', 'longer content'),
      old: usually(false, true),
      fields,
      acl: inherited,
    })
    .map(({ acl, old, ...plain }): RandomEntry => {
      const one = old && plain.kind === 'directory' ? { ...plain, old } : plain;
      const given: RandomEntry['fields'] = one.fields;
      if (acl === undefined || one.kind !== 'directory') return one;
      return { ...one, fields: { ...given, pax: [...(given.pax ?? []), defaultAcl(acl)] } };
    });
}

/** A file in AUFS's directory and a hard link to it, together as in archives of AUFS. */
const linkedByAufs: fc.Arbitrary<RandomEntry[]> = fc
  .tuple(entry('file', 'file', 'fifo'), entry('hardlink'), fc.constantFrom('', '/', './'), fc.constantFrom(...NAMES))
  .map(([kept, link, before, last]) => [
    { ...kept, path: [PLNK, last], before: '' },
    { ...link, target: `${before}${key([PLNK, last])}` },
  ]);
const withLinksOfAufs = (entries: fc.Arbitrary<RandomEntry>, most: number): fc.Arbitrary<RandomEntry[]> =>
  fc
    .array(fc.oneof({ arbitrary: entries.map((one) => [one]), weight: 30 }, { arbitrary: linkedByAufs, weight: 1 }), {
      minLength: 1,
      maxLength: most,
    })
    .map((parts) => parts.flat());

/** Whiteouts in any order, of any path, also of entries of the layer. No links, so every path has one meaning. */
const layerWithDeletions = withLinksOfAufs(
  entry('file', 'file', 'directory', 'directory', 'hardlink', 'device', 'fifo', 'whiteout', 'whiteout', 'opaque'),
  9,
);
/** Directories that hold whiteouts, and often nothing else, deleted before and after. */
const layerWithWhiteouts = fc.array(entry('whiteout', 'whiteout', 'whiteout', 'opaque', 'file', 'directory'), {
  minLength: 2,
  maxLength: 7,
});
/** Links, also in place of directories, and whiteouts of a name that nothing else in the layer has. */
const layerWithLinks = fc
  .tuple(
    withLinksOfAufs(entry('file', 'file', 'directory', 'directory', 'symlink', 'symlink', 'hardlink', 'fifo'), 9),
    fc.option(
      entry('whiteout').map((one) => ({ ...one, path: [...one.path.slice(0, -1), DELETED] })),
      { nil: undefined },
    ),
  )
  .map(([entries, deletion]) => (deletion === undefined ? entries : [...entries, deletion]));
/** Paths that can be deleted. */
const layerWithFiles = fc
  .array(entry('file', 'directory', 'symlink'), { minLength: 1, maxLength: 6 })
  .map((entries) =>
    entries.map((one, index) => (index % 3 === 2 ? { ...one, path: [...one.path.slice(0, -1), DELETED] } : one)),
  );

export const withoutLinks: fc.Arbitrary<RandomImage> = fc.array(layerWithDeletions, { minLength: 1, maxLength: 6 });
export const anyImage: fc.Arbitrary<RandomImage> = fc.array(
  fc.oneof(
    { arbitrary: fc.oneof(layerWithDeletions, layerWithLinks, layerWithFiles, layerWithWhiteouts), weight: 30 },
    { arbitrary: fc.constant([]), weight: 1 },
  ),
  {
    minLength: 1,
    maxLength: 6,
  },
);

/**
 * The same, but as image builders write layers: directories come before their content, each path has one entry, and hard
 * links are to files. There are no extended attributes, because merging a directory keeps those of the layer below in a full
 * copy only, and no device 0:0, because it is a whiteout in an overlay.
 */
export const asBuildersWrite = (image: RandomImage): RandomImage => image.map(withParentsOnce);

function withParentsOnce(layer: RandomLayer): RandomLayer {
  const named = new Map<string, RandomEntry['kind']>();
  return layer.flatMap((one) => {
    const above = one.path
      .slice(0, one.kind === 'opaque' ? undefined : -1)
      .map((_, index) => one.path.slice(0, index + 1));
    const deletes = one.kind === 'whiteout' || one.kind === 'opaque';
    const parents = above.filter((each) => !named.has(key(each)));
    if (above.some((each) => (named.get(key(each)) ?? 'directory') !== 'directory')) return [];
    if (!deletes && named.has(key(one.path))) return [];
    if (one.kind === 'hardlink' && named.get(linkedPath(one.target)) !== 'file') return [];
    for (const each of parents) named.set(key(each), 'directory');
    if (!deletes) named.set(key(one.path), one.kind);
    const { pax: _, ...rest } = one.fields;
    const fields = { ...rest, devMajor: 1 };
    return [
      ...parents.map((each): RandomEntry => ({ ...one, kind: 'directory', path: each, after: '', fields })),
      { ...one, fields },
    ];
  });
}

/**
 * The same without entries for the directories of other entries: whiteouts come in any order, and every implied directory
 * gets its attributes from the layers below unless it is deleted. Each path has one entry. Opaque markers come last, the
 * deepest first: a hidden directory still gives its attributes, and a full copy has it until the marker comes. For the same
 * reason there are no markers above an implied directory of a layer above, and no whiteouts of paths that the layer makes.
 * Such a directory is opaque, and an overlay, containerd's too, still takes attributes from behind it.
 */
export const asMinimalistsWrite = (image: RandomImage): RandomImage => {
  const layers = image.map(withoutParents);
  return layers.map((layer, index) => {
    const needed = layers
      .slice(index + 1)
      .flat()
      .map(({ kind, path: names }) => key(kind === 'opaque' ? names : names.slice(0, -1)));
    return layer.filter((one) => {
      const inside = `${key(one.path)}/`;
      const isOpaque = one.kind === 'opaque' || (one.kind === 'whiteout' && layer.some(makes(one.path)));
      return !isOpaque || !needed.some((path) => path.startsWith(inside));
    });
  });
};

/** Whether an entry has this path or lies in it. */
const makes =
  (path: readonly Buffer[]) =>
  (entry: RandomEntry): boolean =>
    `${key(entry.path)}/`.startsWith(`${key(path)}/`) &&
    (entry.path.length > path.length || !['whiteout', 'opaque'].includes(entry.kind));

function withoutParents(layer: RandomLayer): RandomLayer {
  const seen = new Map<string, RandomEntry['kind']>();
  const kept = layer.flatMap((one): RandomEntry[] => {
    if (one.kind === 'opaque') return [];
    const above = one.path.slice(0, -1).map((_, index) => key(one.path.slice(0, index + 1)));
    const own = key(one.path);
    if (above.some((each) => (seen.get(each) ?? 'directory') !== 'directory')) return [];
    if (one.kind === 'hardlink' && seen.get(linkedPath(one.target)) !== 'file') return [];
    for (const each of above) if (!seen.has(each)) seen.set(each, 'directory');
    if (one.kind !== 'whiteout') {
      if (seen.has(own)) return [];
      seen.set(own, one.kind);
    }
    const { pax: _, ...rest } = one.fields;
    return [{ ...one, fields: { ...rest, devMajor: 1 } }];
  });
  const isFile = (path: readonly Buffer[]): boolean =>
    path.some((_, index) => (seen.get(key(path.slice(0, index + 1))) ?? 'directory') !== 'directory');
  const markers = layer.filter(({ kind, path }) => kind === 'opaque' && !isFile(path));
  return [...kept, ...markers.sort((one, other) => other.path.length - one.path.length)];
}

/** The same without default ACLs. */
export const withoutAcls = (image: RandomImage): RandomImage =>
  image.map((layer) =>
    layer.map((one) => {
      const { pax: records, ...rest } = one.fields;
      const kept = records?.filter(([name]) => !name.includes('posix_acl'));
      return { ...one, fields: kept === undefined || kept.length === 0 ? rest : { ...rest, pax: kept } };
    }),
  );

export const key = (names: readonly Buffer[]): string => names.map((each) => each.toString('latin1')).join('/');

/** The archive of a layer. Without entries it has no bytes. */
export const archiveOf = (layer: RandomLayer): Buffer =>
  layer.length === 0 ? Buffer.alloc(0) : tar(...layer.map(membersOf));

function membersOf(entry: RandomEntry): Buffer {
  const { kind, path: names, before, after, target: link, content, old = false, fields: given } = entry;
  const name = joined(namesInArchive(kind, names));
  const isOld = old && kind === 'directory' && before.length + name.length < 100;
  const plain = Buffer.concat([
    Buffer.from(before),
    name,
    Buffer.from(isOld ? '/' : kind === 'directory' ? after : ''),
  ]);
  const one: Member = {
    name: plain,
    type: isOld ? '\0' : TYPE[kind],
    ...(isOld ? { format: 'v7' } : {}),
    ...(kind === 'file' ? { content } : {}),
    ...(kind === 'symlink' || kind === 'hardlink' ? { linkName: link } : {}),
    ...given,
  };
  // a name that does not fit into the header gets a GNU or a PAX header
  if (plain.length <= 100) return member(one);
  if (given.pax === undefined) return Buffer.concat([gnuLong('L', plain), member({ ...one, format: 'gnu' })]);
  return member({ ...one, pax: [...given.pax, ['path', plain]] });
}

function namesInArchive(kind: RandomEntry['kind'], names: readonly Buffer[]): Buffer[] {
  if (kind === 'opaque') return [...names, Buffer.from('.wh..wh..opq')];
  const last = names.at(-1);
  if (kind !== 'whiteout' || last === undefined) return [...names];
  return [...names.slice(0, -1), Buffer.concat([Buffer.from('.wh.'), last])];
}

const joined = (names: readonly Buffer[]): Buffer => Buffer.from(key(names), 'latin1');

/** The path in a link's target, without parts that change nothing. */
export function linkedPath(target: string): string {
  const plain = DETOURS.reduce((text, detour) => text.replace(detour, ''), target);
  return plain
    .split('/')
    .filter((part) => !['', '.', '..'].includes(part))
    .join('/');
}

/** The image as readable text. */
export function describeImage(image: RandomImage): string {
  return image
    .map((layer, index) => {
      const lines = layer.map(
        ({ kind, path: names, before, after, target: link, old, fields: { pax: records, ...given } }) => {
          const shown = `${before}${show(joined(namesInArchive(kind, names)))}${kind === 'directory' ? after : ''}`;
          const to = kind === 'symlink' || kind === 'hardlink' ? ` -> ${link}` : '';
          return `    ${old ? 'old ' : ''}${kind} ${shown}${to} ${JSON.stringify({ ...given, mode: given.mode?.toString(8) })} ${records ?? ''}`;
        },
      );
      return `  layer ${index + 1}\n${lines.join('\n')}`;
    })
    .join('\n');
}
