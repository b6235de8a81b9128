import { Random } from '../fuzz/random.ts';
import { imageOf, layerOf, type TestImage, type TestLayer } from '../support/layout.ts';
import { directory, file, hardlink, type Member, symlink, tar, whiteout } from '../support/tar.ts';

/** The images for proofs of the store: tags `a` to `f` with four layers each. All share the lowest layer. */
export function someImages(seed: number): Readonly<Record<string, TestImage>> {
  const random = new Random(seed);
  const bottom = layer('bottom', random);
  const images = [...'abcdef'].map((tag) => {
    const above = [1, 2, 3].map((number) => layer(`${tag}${number}`, random));
    return [tag, imageOf([bottom, ...above])] as const;
  });
  return Object.fromEntries(images);
}

/** Files of many sizes, links, attributes, a deletion, and a file in a directory that only other layers have an entry for. */
function layer(name: string, random: Random): TestLayer {
  const members: Member[] = [directory(name, { mode: 0o750, mtime: 1000 })];
  const count = 10 + random.below(60);
  for (let i = 0; i < count; i++) {
    const size = random.oneIn(8) ? 100_000 + random.below(300_000) : random.below(9000);
    const pax = random.oneIn(5) ? [['SCHILY.xattr.user.proof', `${name} ${i}`] as const] : [];
    members.push(
      file(`${name}/${i}`, random.bytes(size), { uid: i, mtime: 2000 + i, ...(pax.length > 0 ? { pax } : {}) }),
    );
  }
  members.push(symlink(`${name}/link`, '0', { mtime: 3000 }), hardlink(`${name}/again`, `${name}/1`));
  members.push(file(`shared/${name}`, name));
  if (name !== 'bottom') members.push(whiteout(`bottom/${random.below(10)}`));
  return layerOf(tar(...members), random.pick(['gzip', 'zstd', 'none']));
}
