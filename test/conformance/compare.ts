import type { ExactNode, ExactTree } from './exact-tree.ts';

/** Names of the two programs, for the report. */
export interface Sides {
  readonly expected: string;
  readonly actual: string;
}

export interface Comparison {
  readonly sides: Sides;
  /**
   * Start of the suite, in nanoseconds since 1970. Archives have times in the past, so a later time comes from the applier
   * itself: of an implied directory, a whiteout or a root. Two such times count as equal.
   */
  readonly since: bigint;
  /** unpackd's own trees of the layers below, nearest first. */
  readonly lowers?: readonly ExactTree[];
  /**
   * Whether the appliers wrote the trees themselves; false for a copy or a mounted view. Access times of files are compared
   * only if true, because making the copy reads the files (relatime). Access times of directories and links are never
   * compared, because reading them changes them. Hard links between files that are not regular are not compared in a copy,
   * because containerd's copies lose them.
   */
  readonly written: boolean;
  /**
   * Whiteouts and opaque markers inside an opaque directory hide nothing, because nothing shows through the directory.
   * With this, `expected` may have such whiteouts that `actual` lacks, and the markers are not compared.
   */
  readonly idleMarkers?: boolean;
}

const OPAQUE = 'xattr trusted.overlay.opaque';

/** The differences between two trees, one line each. */
export function differences(expected: ExactTree, actual: ExactTree, comparison: Comparison): string[] {
  const paths = [...new Set([...expected.keys(), ...actual.keys()])].sort();
  return paths.flatMap((path) => {
    const wanted = expected.get(path);
    const found = actual.get(path);
    const { sides } = comparison;
    if (wanted === undefined)
      return found === undefined ? [] : [`${path}: only in ${sides.actual}: ${describe(found)}`];
    if (found === undefined && isWhiteout(wanted) && isIdle(path, actual, comparison)) return [];
    if (found === undefined) return [`${path}: only in ${sides.expected}: ${describe(wanted)}`];
    const passed = isIdle(path, actual, comparison) ? OPAQUE : undefined;
    return nodeDifferences(path, wanted, found, comparison, passed);
  });
}

const isWhiteout = ({ type, facts }: ExactNode): boolean => type === 'character' && facts.get('device') === '0:0';

/** Whether a directory above the path is opaque in this layer. */
function isIdle(path: string, tree: ExactTree, { idleMarkers }: Comparison): boolean {
  if (idleMarkers !== true) return false;
  const parents = path.split('/').map((_, index, names) => names.slice(0, index).join('/'));
  return parents.some((parent) => tree.get(parent === '' ? '.' : parent)?.facts.has(OPAQUE));
}

/** @param passed name of a fact that is not compared */
function nodeDifferences(
  path: string,
  wanted: ExactNode,
  found: ExactNode,
  comparison: Comparison,
  passed: string | undefined,
): string[] {
  const { sides } = comparison;
  const line = (what: string, a: string, b: string): string =>
    `${path}: ${what}: ${sides.expected} has ${a}, ${sides.actual} has ${b}`;
  if (wanted.type !== found.type) return [line('type', describe(wanted), describe(found))];
  const lines: string[] = [];
  for (const name of new Set([...wanted.facts.keys(), ...found.facts.keys()])) {
    if (name === passed) continue;
    const [a, b] = [wanted.facts.get(name), found.facts.get(name)];
    if (name === 'linked to' && wanted.type !== 'file' && !comparison.written) continue;
    if (a !== b) lines.push(line(name, a ?? 'none', b ?? 'none'));
  }
  if (!sameModified(wanted, found, comparison)) lines.push(line('mtime', time(wanted.mtime), time(found.mtime)));
  if (comparison.written && wanted.type !== 'directory' && wanted.type !== 'link') {
    const bothNow = wanted.atime >= comparison.since && found.atime >= comparison.since;
    if (wanted.atime !== found.atime && !bothNow) lines.push(line('atime', time(wanted.atime), time(found.atime)));
  }
  return lines;
}

function sameModified(wanted: ExactNode, found: ExactNode, { since, lowers = [] }: Comparison): boolean {
  if (wanted.mtime === found.mtime) return true;
  if (wanted.mtime < since) return false;
  if (found.mtime >= since) return true;
  // An implied directory: containerd gives it the times of the directory below and then writes into it, which leaves the
  // current time. unpackd sets the times last. The directory below may have another path if a link leads to it.
  const isBelow = (node: ExactNode): boolean => node.type === 'directory' && node.mtime === found.mtime;
  return found.type === 'directory' && lowers.some((tree) => [...tree.values()].some(isBelow));
}

const time = (nanoseconds: bigint): string =>
  `${nanoseconds / 1_000_000_000n}.${(nanoseconds % 1_000_000_000n).toString().padStart(9, '0')}`;

function describe({ type, facts }: ExactNode): string {
  return `a ${type} (${[...facts].map(([name, value]) => `${name} ${value}`).join(', ')})`;
}
