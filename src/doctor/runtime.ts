import { readFile } from 'node:fs/promises';
import { type Check, fail, ok } from './check.ts';

const OLDEST_NODE = 24;

/** What a worker does that needs each of these, by number (linux/capability.h). */
const CAPABILITIES = [
  ['CHOWN', 0, 'give files to their owners'],
  ['DAC_OVERRIDE', 1, 'write into folders of other users'],
  ['FOWNER', 3, 'set modes, times and attributes of files of other users'],
  ['FSETID', 4, 'keep setgid bits'],
  ['SYS_ADMIN', 21, 'write the trusted.* attributes of overlays, and mount'],
  ['MKNOD', 27, 'make devices'],
  ['SETFCAP', 31, 'set file capabilities'],
] as const;

/** The runtime and the rights of this process. */
export async function checkRuntime(): Promise<Check[]> {
  return [node(), await permissions()];
}

function node(): Check {
  const finding = `${process.version} on ${process.platform}/${process.arch}`;
  if (process.platform !== 'linux') return fail('Node', finding, 'unpackd runs on Linux only');
  if (Number.parseInt(process.versions.node, 10) >= OLDEST_NODE) return ok('Node', finding);
  return fail('Node', finding, `install Node ${OLDEST_NODE} or newer`);
}

async function permissions(): Promise<Check> {
  const status = await readFile('/proc/self/status', 'utf8');
  const effective = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)/m.exec(status)?.[1] ?? '0'}`);
  const missing = CAPABILITIES.filter(([, bit]) => (effective & (1n << BigInt(bit))) === 0n);
  const who = process.geteuid?.() === 0 ? 'root' : `user ${process.geteuid?.()}`;
  if (missing.length === 0) return ok('Permissions', `${who}, with every capability that a worker uses`);
  const lacks = missing.map(([name, , purpose]) => `CAP_${name} (${purpose})`).join(', ');
  return fail('Permissions', `${who}, without ${lacks}`, 'run as root; in a container, add these capabilities');
}
