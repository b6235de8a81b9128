import type { Ownership } from '../snapshots/snapshotter.ts';
import { type Capability, privileges } from '../system/privileges.ts';
import { type Check, fail, ok, warn } from './check.ts';

const OLDEST_NODE = 24;

/** Why a worker needs each capability. */
const PURPOSES = {
  CHOWN: 'set the owners of files',
  DAC_OVERRIDE: 'write into folders of other users',
  FOWNER: 'set modes, times and attributes of files of other users',
  FSETID: 'keep setgid bits',
  SYS_ADMIN: 'set the trusted.* attributes of overlays, and mount',
  MKNOD: 'create devices',
  SETFCAP: 'set file capabilities',
} as const satisfies Record<Capability, string>;

/**
 * Checks Node, the permissions of this process, its native code and optional programs.
 * @param nativeInflate the setting UNPACK_NATIVE_INFLATE
 */
export async function checkRuntime(ownership: Ownership, nativeInflate: boolean): Promise<Check[]> {
  return [node(), await permissions(ownership), ...(await nativeCode(nativeInflate)), await programs()];
}

function node(): Check {
  const finding = `${process.version} on ${process.platform}/${process.arch}`;
  if (process.platform !== 'linux') return fail('Node', finding, 'unpackd runs on Linux only');
  if (Number.parseInt(process.versions.node, 10) >= OLDEST_NODE) return ok('Node', finding);
  return fail('Node', finding, `install Node ${OLDEST_NODE} or newer`);
}

const NATIVE_NAMES = { digests: 'Digests', gzip: 'Inflating gzip', zstd: 'Inflating zstd' } as const;

/** Which code computes digests and decompresses, and why. */
async function nativeCode(inflate: boolean): Promise<Check[]> {
  const { nativeStatus } = await import('../archive/native-status.ts');
  return nativeStatus(inflate).map(({ work, uses, why, advice }) => {
    const finding = `${uses}; ${why}`;
    return advice === undefined ? ok(NATIVE_NAMES[work], finding) : warn(NATIVE_NAMES[work], finding, advice);
  });
}

async function permissions(ownership: Ownership): Promise<Check> {
  const name = 'Permissions';
  const { user, has, cannotKeepOwners } = privileges();
  // `as`: the keys of an object literal are its type's
  const missing = (Object.keys(PURPOSES) as Capability[]).filter((capability) => !has(capability));
  if (ownership === 'squash') {
    return ok(name, `${user}, who will own all files; devices are left out (UNPACK_OWNERSHIP=squash)`);
  }
  if (missing.length === 0 && cannotKeepOwners === undefined) {
    return ok(name, `${user}, with every capability that a worker needs`);
  }
  const lacks = missing.map((capability) => `CAP_${capability} (${PURPOSES[capability]})`).join(', ');
  return fail(
    name,
    missing.length === 0 ? `${user}, but ${cannotKeepOwners}` : `${user}, without ${lacks}`,
    `${howToPermit(user, missing)}; or set UNPACK_OWNERSHIP=squash: this user owns all files, and devices and file capabilities are left out`,
  );
}

function howToPermit(user: string, missing: readonly Capability[]): string {
  if (user !== 'root') return 'run as root; in a container, add these capabilities';
  if (missing.length === 0)
    return 'give the user namespace more users (/etc/subuid, /etc/subgid), or run outside of it';
  const flags = missing.map((capability) => `--cap-add ${capability}`).join(' ');
  return `give this process these capabilities (docker run ${flags}; systemd: CapabilityBoundingSet=)`;
}

/** Checks programs that only some commands need. */
async function programs(): Promise<Check> {
  const { hasXz } = await import('../push/compressed-archive.ts');
  if (await hasXz()) return ok('Programs', 'xz: push can read archives that are compressed with xz');
  return ok('Programs', 'no xz: push cannot read archives that are compressed with xz (optional package xz-utils)');
}
