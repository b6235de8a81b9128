import { execFileSync } from 'node:child_process';
import {
  appendFileSync,
  chmodSync,
  chownSync,
  closeSync,
  ftruncateSync,
  lchownSync,
  linkSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';

/** One change to the tree of an image. The builder makes one layer of each change. */
export type Step = (at: (path: string) => string) => void;

/** `cap_net_raw+ep`, as the kernel keeps it (capabilities(7)). */
const CAPABILITY = '0x0100000200200000000000000000000000000000';
/** Bytes, because Node's strings can't hold a name that is not UTF-8. */
const oddName = (at: (path: string) => string): Buffer =>
  Buffer.concat([Buffer.from(at('not UTF-8 ')), Buffer.from([0xff, 0xfe])]);

const run = (program: string, ...words: string[]): void => {
  execFileSync(program, words);
};

/** The changes in order. Each layer holds the changes of one step. */
export const STEPS: Readonly<Record<string, Step>> = {
  'a first layer'(at) {
    for (const path of [
      'etc',
      'usr/bin',
      'var/cache/pkg/deep',
      'srv/app/lib',
      'opt/old/sub',
      'home/user',
      'tmp',
      'dev',
    ]) {
      mkdirSync(at(path), { recursive: true });
    }
    for (const path of ['etc/passwd', 'var/cache/pkg/a', 'var/cache/pkg/deep/b', 'opt/old/one', 'opt/old/sub/two']) {
      writeFileSync(at(path), `this is ${path}\n`);
    }
    chmodSync(at('tmp'), 0o1777);
    chmodSync(at('home/user'), 0o700);
    chownSync(at('home/user'), 1000, 1000);
    writeFileSync(at('home/user/.profile'), 'x=1\n', { mode: 0o600 });
    chownSync(at('home/user/.profile'), 3_000_000, 3_000_001);
    writeFileSync(at('usr/bin/su'), Buffer.alloc(70_000, 'program'));
    chmodSync(at('usr/bin/su'), 0o4755);
    writeFileSync(at('usr/bin/ping'), 'ping');
    run('setfattr', '-n', 'security.capability', '-v', CAPABILITY, at('usr/bin/ping'));
    writeFileSync(at('usr/bin/wall'), 'wall');
    chownSync(at('usr/bin/wall'), 0, 5);
    chmodSync(at('usr/bin/wall'), 0o2755);
    run('setfattr', '-n', 'user.note', '-v', '0x000aff3d', at('etc/passwd'));
    run('setfattr', '-n', 'user.of.a.directory', '-v', 'yes', at('srv/app'));
    run('setfacl', '-m', 'u:1000:rw', at('etc/passwd'));
    run('setfacl', '-d', '-m', 'u:1000:rx', at('srv/app/lib'));
    writeFileSync(at('srv/app/lib/first'), 'one file with three names');
    linkSync(at('srv/app/lib/first'), at('srv/app/second'));
    linkSync(at('srv/app/lib/first'), at('opt/third'));
    symlinkSync('lib/first', at('srv/app/relative'));
    symlinkSync('/srv/app', at('srv/absolute'));
    symlinkSync('nowhere', at('srv/dangling'));
    lchownSync(at('srv/dangling'), 7, 8);
    run('mknod', at('dev/null'), 'c', '1', '3');
    run('mknod', at('dev/disk'), 'b', '259', '70000');
    run('mkfifo', at('dev/pipe'));
    sparseFile(at('var/sparse'));
    writeFileSync(at('n'.repeat(200)), 'a long name');
    mkdirSync(at(`deep/${'d'.repeat(150)}/${'e'.repeat(150)}`), { recursive: true });
    writeFileSync(at(`deep/${'d'.repeat(150)}/${'e'.repeat(150)}/f`), 'a long path');
    symlinkSync(`${'y'.repeat(120)}/${'z'.repeat(120)}`, at('srv/long'));
    writeFileSync(at('ünïcödé'), 'not ASCII');
    writeFileSync(at('new\nline'), 'not a line');
    writeFileSync(oddName(at), 'bytes');
    mkdirSync(at('...'));
  },

  deletions(at) {
    for (const path of ['etc/passwd', 'srv/app/second', 'srv/dangling', 'dev/disk', 'var/cache', 'n'.repeat(200)]) {
      rmSync(at(path), { recursive: true });
    }
    rmSync(at('opt/old'), { recursive: true });
    mkdirSync(at('opt/old'));
    writeFileSync(at('opt/old/fresh'), 'what was here is gone');
    rmSync(oddName(at));
  },

  'one thing into another'(at) {
    rmSync(at('usr/bin/wall'));
    mkdirSync(at('usr/bin/wall/inside'), { recursive: true });
    rmSync(at('home/user'), { recursive: true });
    writeFileSync(at('home/user'), 'a file where a directory was');
    rmSync(at('deep'), { recursive: true });
    symlinkSync('srv', at('deep'));
    rmSync(at('srv/absolute'));
    mkdirSync(at('srv/absolute'));
    writeFileSync(at('srv/absolute/inside'), 'a directory where a link was');
    rmSync(at('dev/pipe'));
    writeFileSync(at('dev/pipe'), 'no pipe');
    rmSync(at('dev/null'));
    symlinkSync('zero', at('dev/null'));
    rmSync(at('ünïcödé'));
    run('mkfifo', at('ünïcödé'));
  },

  'attributes alone'(at) {
    chmodSync(at('usr/bin/su'), 0o755);
    chownSync(at('opt/old'), 12, 13);
    run('setfattr', '-x', 'user.of.a.directory', at('srv/app'));
    run('setfattr', '-n', 'user.more', '-v', 'yes', at('usr/bin/ping'));
    run('setfacl', '-m', 'g:1000:r', at('opt/old/fresh'));
    run('setfacl', '-b', at('srv/app/lib'));
    appendFileSync(at('opt/third'), ', and both have this');
    lchownSync(at('srv/long'), 9, 10);
    chmodSync(at('tmp'), 0o755);
  },

  'back again'(at) {
    writeFileSync(at('etc/passwd'), 'another one');
    mkdirSync(at('var/cache/pkg'), { recursive: true });
    writeFileSync(at('var/cache/pkg/a'), 'a again');
    rmSync(at('deep'));
    mkdirSync(at('deep'), { mode: 0o711 });
    rmSync(at('home/user'));
    mkdirSync(at('home/user'), { mode: 0o750 });
    rmSync(at('usr/bin/wall'), { recursive: true });
    run('mv', at('srv/app'), at('srv/renamed')); // overlayfs can't rename a directory of a lower layer, so mv copies it
    renameSync(at('opt/third'), at('opt/old/fresh'));
    linkSync(at('usr/bin/su'), at('usr/bin/sudo'));
  },

  nothing() {},
};

/** Alternating data and holes, with a hole at the end. */
function sparseFile(path: string): void {
  const fd = openSync(path, 'w');
  for (let i = 1; i <= 10; i++) writeSync(fd, Buffer.alloc(4096, 's'), 0, 4096, i << 16);
  ftruncateSync(fd, 12 << 16);
  closeSync(fd);
}

/**
 * Gives every file that was changed since `since` (milliseconds since 1970) a time in the past, so that its time is
 * compared (see `Comparison.since`). Children first, because a change in a directory changes its time.
 */
export function ageChanges(root: string, since: number, step: number): void {
  const visit = (path: Buffer): void => {
    const status = lstatSync(path);
    if (status.isDirectory()) {
      for (const name of readdirSync(path, { encoding: 'buffer' }))
        visit(Buffer.concat([path, Buffer.from('/'), name]));
    }
    if (status.mtimeMs >= since) lutimesSync(path, 1_500_000_000 + step, 1_600_000_000.123456 + step);
  };
  visit(Buffer.from(root));
}
