import type { Mount } from '../snapshots/snapshotter.ts';

/**
 * The mounts of a snapshot as command lines of mount(8), for `unpackd snapshots mounts` and `stat`. Two limits matter if an
 * image has many layers:
 *
 * - From util-linux 2.39 on, mount(8) uses fsconfig(2), which takes at most 255 bytes for one option (Linux, fs/fsopen.c).
 *   LIBMOUNT_FORCE_MOUNT2 makes it use mount(2).
 * - mount(2) takes 4,095 bytes of options. Paths relative to the directory of all snapshots are shorter.
 */

const LONGEST_OPTION = 255;
const LONGEST_OPTIONS = 4095;
/** What a shell takes as one word without quotes. */
const PLAIN = /^[\w@%+=:,./-]+$/;

/** One command line for each mount. @param folder an absolute path */
export function mountLines(mounts: readonly Mount[], folder: string): string[] {
  return mounts.map((mount) => {
    const { type, source, options } = mount;
    const at = quoted(folder);
    // the kernel has no file system of this name: the option makes the mount
    if (type === 'bind') return `mount -o ${quoted(options.join(','))} ${quoted(source)} ${at}`;
    const whole = options.join(',');
    const directory = whole.length > LONGEST_OPTIONS ? commonDirectory(options) : undefined;
    const shown = directory === undefined ? whole : relativeTo(directory, options).join(',');
    const forced = options.some((option) => option.length > LONGEST_OPTION) ? 'LIBMOUNT_FORCE_MOUNT2=always ' : '';
    const line = `${forced}mount -t ${type} -o ${quoted(shown)} ${quoted(source)} ${at}`;
    return directory === undefined ? line : `(cd ${quoted(directory)} && ${line})`;
  });
}

/** A text as one word of a POSIX shell. */
function quoted(text: string): string {
  return PLAIN.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

/** The directory that all layers of an overlay are in, as `/store/snapshots` for `lowerdir=/store/snapshots/1/fs:…`. */
function commonDirectory(options: readonly string[]): string | undefined {
  const lower = options.find((option) => option.startsWith('lowerdir='))?.slice('lowerdir='.length);
  return lower === undefined ? undefined : /^(.*)\/\d+\/fs$/.exec(lower.split(':')[0] ?? '')?.[1];
}

function relativeTo(directory: string, options: readonly string[]): string[] {
  const inside = `${directory}/`;
  return options.map((option) => {
    const [name = '', value] = option.split(/=(.*)/s);
    if (value === undefined || !value.startsWith(inside)) return option;
    const paths = value.split(':').map((path) => (path.startsWith(inside) ? path.slice(inside.length) : path));
    return `${name}=${paths.join(':')}`;
  });
}
