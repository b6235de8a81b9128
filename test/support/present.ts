import { spawnSync } from 'node:child_process';
import { findProgram } from '../../dev/local-programs.ts';

/**
 * Returns the reason to skip a test. In CI a reason is an error, because a passed run would hide that a test was skipped.
 * @throws Error with `CI=true` if there is a reason
 */
export function skipFor(reason: string | false | undefined): string | false {
  if (reason === undefined || reason === false) return false;
  if (process.env.CI === 'true') throw new Error(`CI=true, but ${reason}: .ci/run installs what the tests need`);
  return reason;
}

/** The reason to skip a test that needs these programs. @throws Error as `skipFor` does */
export function skipWithout(...programs: string[]): string | false {
  const missing = programs.find((program) => findProgram(program) === undefined);
  return skipFor(missing !== undefined && `${missing} is not installed`);
}

/** The reason to skip a test that needs a user namespace. A container or sysctl(8) may forbid them, for root too. */
export function skipWithoutUserNamespaces(): string | false {
  const { status, error } = spawnSync('unshare', ['--user', '--map-root-user', '--mount', 'true'], { stdio: 'ignore' });
  return error === undefined && status === 0 ? false : 'there are no user namespaces here';
}
