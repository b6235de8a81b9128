import assert from 'node:assert/strict';
import type { Below } from '../../src/diff/target.ts';
import { UnpackError } from '../../src/errors.ts';
import { applyTar } from '../support/apply.ts';
import { Sandbox } from '../support/sandbox.ts';
import { type Node, readTree } from '../support/tree.ts';

/** The result of an attack: the tree in the root, and the error if the archive was refused. */
export interface Left {
  readonly tree: Readonly<Record<string, Node>>;
  readonly error: UnpackError | undefined;
}

export interface AttackOptions {
  /** Prepares the root; the files in `outside` must not be touched. */
  readonly prepare?: (root: string, outside: string) => void;
  /** Whether to read the resulting tree; default: true. It takes long if paths are long. */
  readonly look?: boolean;
  readonly limits?: Parameters<typeof applyTar>[2] extends { limits?: infer L } | undefined ? L : never;
}

/**
 * Applies an archive next to files that it must not touch: on nothing, in an overlay and in a full copy, each with openat2
 * and without it, and cut into pieces. Fails if a file outside the root has another content, mode, owner, time, attribute or
 * name than before, if the error is not an UnpackError, or if the results with and without openat2 differ.
 * @param archive or a function that makes it from the absolute path of the directory that must not be touched
 */
export function attack(
  archive: Buffer | ((outside: string) => Buffer),
  options: AttackOptions = {},
): Readonly<Record<Below, Left>> {
  using box = new Sandbox();
  const bytes = Buffer.isBuffer(archive) ? archive : archive(box.outside);
  const run = (root: string, below: Below, useOpenat2: boolean): Left => {
    options.prepare?.(root, box.outside);
    box.remember();
    let error: UnpackError | undefined;
    try {
      applyTar(
        bytes,
        { root, below },
        { useOpenat2, limits: options.limits ?? {}, ...(useOpenat2 ? {} : { cut: 700 }) },
      );
    } catch (thrown) {
      assert.ok(thrown instanceof UnpackError, String(thrown));
      error = thrown;
    }
    box.check();
    return { tree: options.look === false ? {} : readTree(root), error };
  };
  const both = (below: Below): Left => {
    const [root, other] = box.roots;
    const left = run(root, below, true);
    const walked = run(other, below, false);
    assert.equal(walked.error?.code, left.error?.code, `by the walk: ${walked.error?.message}`);
    if (left.error === undefined) assert.deepEqual(timeless(walked.tree), timeless(left.tree), 'by the walk');
    box.clean();
    return left;
  };
  return { nothing: both('nothing'), later: both('later'), parent: both('parent') };
}

/** The archive does no harm and is refused on nothing, in an overlay and in a full copy. */
export function refused(
  archive: Parameters<typeof attack>[0],
  code: string,
  text: RegExp,
  options?: AttackOptions,
): void {
  for (const { error } of Object.values(attack(archive, options))) {
    assert.equal(error?.code, code, String(error));
    assert.match(error?.message ?? '', text);
  }
}

/** The archive does no harm and is applied with these paths, on nothing, in an overlay and in a full copy. */
export function contained(
  archive: Parameters<typeof attack>[0],
  paths: readonly string[],
  options?: AttackOptions,
): Left['tree'] {
  const all = attack(archive, options);
  for (const { tree, error } of Object.values(all)) {
    assert.equal(error, undefined, String(error));
    assert.deepEqual(Object.keys(tree), paths);
  }
  return all.later.tree;
}

const timeless = (tree: Readonly<Record<string, Node>>): unknown =>
  Object.entries(tree).map(([path, { mtime, ...node }]) => [path, node]);
