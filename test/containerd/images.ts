import { readFileSync } from 'node:fs';
import { findProgram } from '../../dev/local-programs.ts';
import { hostPlatform } from '../../src/oci/platform.ts';
import { imageOf, layerOf, type TestCompression, type TestImage } from '../support/layout.ts';
import { directory, file, hardlink, type Member, opaque, symlink, tar, whiteout } from '../support/tar.ts';

/** Images for this machine whose only program is its static busybox. */

/** What the lowest layer has. @throws Error without busybox */
function busybox(): Member[] {
  const path = findProgram('busybox');
  if (path === undefined) throw new Error('busybox is not installed: apt-get install busybox-static');
  const folders = ['bin', 'dev', 'etc', 'proc', 'sys', 'tmp'].map((name) => directory(name));
  return [...folders, file('bin/busybox', readFileSync(path), { mode: 0o755 }), symlink('bin/sh', 'busybox')];
}

const RUNTIME = { config: { Entrypoint: ['/bin/busybox', 'sleep', 'infinity'] } };

/** The image of a pod's own container, which does nothing. */
export const pauseImage = (): TestImage => imageOf([layerOf(tar(...busybox()))], hostPlatform(), {}, RUNTIME);

/** An image of five layers that change each other's files. Images with different words share no layer. */
export function appImage(word = 'app'): TestImage {
  const layer = (members: readonly Member[], compression?: TestCompression) =>
    layerOf(tar(...members, file('etc/word', word)), compression);
  const layers = [
    layer(busybox()),
    layer([
      directory('data', { mode: 0o750, uid: 7 }),
      file('data/word', word),
      file('data/old', 'deleted by the next layer'),
      directory('data/hidden'),
      file('data/hidden/below', 'hidden by the next layer'),
      directory('data/kept'),
      file('data/kept/file', 'kept', { mode: 0o600, uid: 1000, gid: 1000 }),
    ]),
    layer(
      [whiteout('data/old'), directory('data/hidden'), opaque('data/hidden'), file('data/hidden/above', 'above')],
      'zstd',
    ),
    layer([file('data/first', 'two names'), hardlink('data/second', 'data/first')]),
    layer([symlink('data/link', 'kept/file'), directory('data/kept', { mode: 0o700 })], 'none'),
  ];
  return imageOf(layers, hostPlatform(), {}, RUNTIME);
}

/** A command that prints what is in /data of a container of `appImage`. */
export const LIST_DATA = [
  '/bin/busybox',
  'sh',
  '-c',
  'cd /data; busybox find . -exec busybox stat -c "%n %F %a %u:%g %h" {} \\; | busybox sort; ' +
    'busybox find . -type f | busybox sort | while read -r name; do echo "$name: $(busybox cat "$name")"; done',
];

/** What LIST_DATA prints. */
export const dataOf = (word = 'app'): string => `. directory 750 7:0 1
./first regular file 644 0:0 2
./hidden directory 755 0:0 2
./hidden/above regular file 644 0:0 1
./kept directory 700 0:0 1
./kept/file regular file 600 1000:1000 1
./link symbolic link 777 0:0 1
./second regular file 644 0:0 2
./word regular file 644 0:0 1
./first: two names
./hidden/above: above
./kept/file: kept
./second: two names
./word: ${word}
`;

/** Bytes of all layers, as a registry sends them. */
export const layerBytes = ({ layers }: TestImage): number => layers.reduce((sum, { blob }) => sum + blob.size, 0);
