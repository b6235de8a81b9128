import { libc } from '../../src/system/libc.ts';

/** Exchanges two names forever, as fast as it can (renameat2(2) with RENAME_EXCHANGE), for race.test.ts: `swapper.ts ONE OTHER`. */
const SYS_RENAMEAT2 = process.arch === 'arm64' ? 276 : 316;
const AT_FDCWD = -100;
const RENAME_EXCHANGE = 2;

const renameat2 = libc.func('long syscall(long, long, str, long, str, long)');
const [one, other] = process.argv.slice(2);
if (one === undefined || other === undefined) throw new Error('two names are needed');

let swaps = 0;
process.stdout.write('ready\n');
// the test ends this process; if the test has died, writing to it fails
for (;;) {
  for (let i = 0; i < 100_000; i++) {
    if (Number(renameat2(SYS_RENAMEAT2, AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE)) === 0) swaps++;
  }
  process.stdout.write(`${swaps}\n`);
}
