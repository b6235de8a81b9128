import type { ExactNode, ExactTree } from './exact-tree.ts';

/** Who the two trees are from, for the report. */
export interface Sides {
  readonly expected: string;
  readonly actual: string;
}

export interface Comparison {
  readonly sides: Sides;
  /**
   * When the suite began, in nanoseconds since 1970. Archives hold times of the past, so a later time is one that the
   * applier's own writing left: of a directory that no entry names, of a whiteout, of a root. Two such are equal.
   */
  readonly since: bigint;
  /** unpackd's own trees of the layers below, nearest first. */
  readonly lowers?: readonly ExactTree[];
  /**
   * Whether the trees hold what an applier wrote itself, and not a copy of it or a mounted view. Only then access times
   * of files count: reading the original changes them (relatime). Those of directories and links never do, since every
   * look changes them. Neither do hard links between anything but files in a copy: containerd's copies lose them.
   */
  readonly written: boolean;
  /**
   * Whiteouts and opaque markers inside an opaque directory hide nothing, because nothing shows through the directory.
   * With this, `expected` may have such whiteouts that `actual` lacks, and the markers are not compared.
   */
  readonly idleMarkers?: boolean;
}

const OPAQUE = 'xattr trusted.overlay.opaque';

/** What differs between two trees, a line each; none if they are the same. */
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

/** Whether a directory above the path is opaque in this same layer. */
function isIdle(path: string, tree: ExactTree, { idleMarkers }: Comparison): boolean {
  if (idleMarkers !== true) return false;
  const parents = path.split('/').map((_, index, names) => names.slice(0, index).join('/'));
  return parents.some((parent) => tree.get(parent === '' ? '.' : parent)?.facts.has(OPAQUE));
}

/** @param passed a fact that is not compared */
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
  // A directory that the layer writes into and does not name: containerd gives it the times of the one below and then
  // writes into it, which leaves today's time; unpackd gives it its times last. The one below may have another path, where
  // a link leads to it.
  const isBelow = (node: ExactNode): boolean => node.type === 'directory' && node.mtime === found.mtime;
  return found.type === 'directory' && lowers.some((tree) => [...tree.values()].some(isBelow));
}

const time = (nanoseconds: bigint): string =>
  `${nanoseconds / 1_000_000_000n}.${(nanoseconds % 1_000_000_000n).toString().padStart(9, '0')}`;

function describe({ type, facts }: ExactNode): string {
  return `a ${type} (${[...facts].map(([name, value]) => `${name} ${value}`).join(', ')})`;
}
