import { spawnSync } from 'node:child_process';
import { findProgram } from '../../dev/local-programs.ts';

/**
 * A reason to skip a test, if there is one: what this machine lacks. On a CI machine nothing that a test compares with
 * may be missing, or a green run would hide that it was not compared; there it is an error.
 * @throws Error with `CI=true` where there is a reason
 */
export function skipFor(reason: string | false | undefined): string | false {
  if (reason === undefined || reason === false) return false;
  if (process.env.CI === 'true') throw new Error(`CI=true, but ${reason}: .ci/run installs what the tests need`);
  return reason;
}

/** The reason to skip a test that runs these programs. @throws as `skipFor` */
export function skipWithout(...programs: string[]): string | false {
  const missing = programs.find((program) => findProgram(program) === undefined);
  return skipFor(missing !== undefined && `${missing} is not installed`);
}

/** The reason to skip a test in a user namespace of its own: a container or a sysctl(8) may forbid them, also to root. */
export function skipWithoutUserNamespaces(): string | false {
  const { status, error } = spawnSync('unshare', ['--user', '--map-root-user', '--mount', 'true'], { stdio: 'ignore' });
  return error === undefined && status === 0 ? false : 'there are no user namespaces here';
}
