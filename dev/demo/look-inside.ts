import { execFile } from 'node:child_process';
import { lstat, readdir, readFile, readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { PATH_OF_ROOT } from '../local-programs.ts';
import { EXPECTED } from './example-image.ts';

/** The result of one check. */
export interface Finding {
  readonly ok: boolean;
  /** The path and what was found there. */
  readonly text: string;
}

/** Checks the unpacked tree of the example image, for the demo. As root it also runs a program in the tree. */
export async function lookInside(tree: string): Promise<Finding[]> {
  const path = (name: string) => join(tree, name);
  const gone = async (name: string) => (await lstat(path(name)).catch(() => undefined)) === undefined;
  const findings: Finding[] = [];
  const add = (ok: boolean, text: string) => findings.push({ ok, text });

  const [one, two] = EXPECTED.hardLinks;
  const deleted = await gone(EXPECTED.deletedFile);
  add(deleted, `/${EXPECTED.deletedFile}, deleted by layer 4, is ${deleted ? 'gone' : 'still there'}`);
  const removed = await gone(EXPECTED.deletedFolder);
  add(removed, `/${EXPECTED.deletedFolder}/, deleted by layer 4, is ${removed ? 'gone' : 'still there'}`);
  const left = await readdir(path(EXPECTED.replacedFolder));
  add(
    left.join() === EXPECTED.replacedBy,
    `/${EXPECTED.replacedFolder}/, replaced by layer 4, has only: ${left.join(', ')}`,
  );
  const mode = (await lstat(path(EXPECTED.setuid))).mode & 0o7777;
  add(mode === 0o4755, `/${EXPECTED.setuid} has mode ${mode.toString(8)} (setuid)`);
  const [first, second] = await Promise.all([lstat(path(one)), lstat(path(two))]);
  add(
    first.ino === second.ino && first.nlink === 2,
    `/${one} and ${two.split('/').at(-1)} are one file with ${first.nlink} names`,
  );
  const target = await readlink(path(EXPECTED.symlink));
  add(target === 'data', `/${EXPECTED.symlink} → ${target}`);
  const empty = await readdir(path(EXPECTED.emptyFolder));
  add(empty.length === 0, `/${EXPECTED.emptyFolder}/ is there and empty`);
  const same = (await readFile(path(EXPECTED.runtime))).equals(await readFile(process.execPath));
  add(
    same,
    `/${EXPECTED.runtime} is ${same ? 'the same as' : 'different from'} the one that runs this demo, byte for byte`,
  );
  if (process.geteuid?.() === 0) findings.push(...(await runInside(tree)));
  return findings;
}

/** Flags of Node, and what it must print with them. */
const RUNS: readonly { readonly flags: readonly string[]; readonly expected: string }[] = [
  { flags: ['--version'], expected: process.version },
  { flags: ['-p', "require('/app/node_modules/zod').z.string().parse('it runs')"], expected: 'it runs' },
];

function runInside(tree: string): Promise<Finding[]> {
  return runNode('chroot TREE', async (command) => {
    const env = { ...process.env, PATH: PATH_OF_ROOT };
    const { stdout } = await promisify(execFile)('chroot', [tree, ...command], { env, timeout: 10_000 });
    return stdout.trim();
  });
}

/**
 * Runs Node of the image, with the libraries and the packages of the image.
 * @param how the beginning of the command, as it is shown
 * @param run runs a command in the image and returns what it prints
 */
export async function runNode(how: string, run: (command: readonly string[]) => Promise<string>): Promise<Finding[]> {
  const findings: Finding[] = [];
  for (const { flags, expected } of RUNS) {
    const shown = `${how} node ${flags.map((flag) => (/[\s(]/.test(flag) ? `"${flag}"` : flag)).join(' ')}`;
    try {
      const printed = await run([`/${EXPECTED.runtime}`, ...flags]);
      findings.push({ ok: printed === expected, text: `${shown}  → ${printed}` });
    } catch (error) {
      findings.push({ ok: false, text: `${shown} failed: ${error instanceof Error ? error.message : String(error)}` });
    }
  }
  return findings;
}
