import { freeSpaceText, isBelow, type Marks, marksProblem } from '../collector/free-space.ts';
import { allMounts } from '../system/mount-namespaces.ts';
import { diskOf } from '../system/space.ts';
import { bytesText } from '../units.ts';
import { type Check, fail, ok, reason, warn } from './check.ts';
import { nearestFolder } from './store.ts';

const NAME = 'Garbage collection';

/**
 * Checks that workers can collect: that UNPACK_GC_LOW and UNPACK_GC_HIGH fit the disk, and that the mounts of all processes
 * can be seen. For `unpackd doctor`.
 * @param marks `undefined`: collection is off
 */
export async function checkCollector(root: string, marks: Marks | undefined): Promise<Check> {
  if (marks === undefined)
    return ok(NAME, 'off: UNPACK_GC_LOW and UNPACK_GC_HIGH are not set, so images stay until somebody removes them');
  try {
    const disk = await diskOf(await nearestFolder(root));
    const problem = marksProblem(marks, disk, root);
    if (problem !== undefined) return fail(NAME, problem, 'change the setting: the worker does not start with it');
    const { unseen } = allMounts();
    if (unseen !== undefined) {
      return warn(NAME, 'on, but nothing is removed, because mounts of other processes cannot all be seen', unseen);
    }
    const between = `starts below ${freeSpaceText(marks.low)} and stops at ${freeSpaceText(marks.high)}`;
    const state = isBelow(disk, marks.low) ? `${bytesText(disk.bytes)} is free, so it is due` : 'not due now';
    return ok(NAME, `${between}; ${state}`);
  } catch (error) {
    return fail(NAME, reason(error), 'use another folder (UNPACK_ROOT)');
  }
}
