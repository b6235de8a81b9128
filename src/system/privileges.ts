import { existsSync, readFileSync } from 'node:fs';

/** A capability that a worker uses (linux/capability.h). */
export type Capability = keyof typeof NUMBERS;

const NUMBERS = {
  CHOWN: 0,
  DAC_OVERRIDE: 1,
  FOWNER: 3,
  FSETID: 4,
  SYS_ADMIN: 21,
  MKNOD: 27,
  SETFCAP: 31,
} as const;

/** The capabilities for giving files to other owners, and for writing files that belong to others. */
const FOR_OWNERS = ['CHOWN', 'DAC_OVERRIDE', 'FOWNER', 'FSETID'] as const satisfies readonly Capability[];

/** The user and the capabilities of this process. */
export interface Privileges {
  /** `root`, or `user` and the user ID. */
  readonly user: string;
  readonly has: (capability: Capability) => boolean;
  /** In a user namespace, root has capabilities only over what that namespace owns. */
  readonly inUserNamespace: boolean;
  /** Why this process cannot give files to other owners. `undefined` if it can. */
  readonly cannotKeepOwners: string | undefined;
}

/** @throws system errors if /proc is not mounted */
export function privileges(): Privileges {
  const status = readFileSync('/proc/self/status', 'utf8');
  const effective = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)/m.exec(status)?.[1] ?? '0'}`);
  const has = (capability: Capability) => (effective & (1n << BigInt(NUMBERS[capability]))) !== 0n;
  const id = process.geteuid?.() ?? 0;
  const users = mapped('uid');
  const groups = mapped('gid');
  const inUserNamespace = users < ALL_IDS || groups < ALL_IDS;
  const missing = FOR_OWNERS.filter((name) => !has(name)).map((name) => `CAP_${name}`);
  const cannotKeepOwners =
    missing.length > 0
      ? `${missing.join(', ')} ${missing.length === 1 ? 'is' : 'are'} missing`
      : Math.min(users, groups) === 1
        ? 'its user namespace has no other user'
        : undefined;
  return { user: id === 0 ? 'root' : `user ${id}`, has, inUserNamespace, cannotKeepOwners };
}

/** The number of all user IDs. 0xffffffff itself is not a valid ID. */
const ALL_IDS = 0xffffffff;

/** The number of user or group IDs in this process's user namespace (user_namespaces(7)). */
function mapped(kind: 'uid' | 'gid'): number {
  const file = `/proc/self/${kind}_map`;
  // a kernel without user namespaces has no such file, and all IDs are valid
  const map = existsSync(file) ? readFileSync(file, 'utf8') : `0 0 ${ALL_IDS}`;
  return map
    .trim()
    .split('\n')
    .reduce((sum, line) => sum + Number(line.trim().split(/\s+/)[2] ?? 0), 0);
}
