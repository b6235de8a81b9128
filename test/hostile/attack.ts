import assert from 'node:assert/strict';
import type { Below } from '../../src/diff/target.ts';
import { UnpackError } from '../../src/errors.ts';
import { applyTar } from '../support/apply.ts';
import { Sandbox } from '../support/sandbox.ts';
import { type Node, readTree } from '../support/tree.ts';

/** What an attack left in the root: the tree, and the error if it was refused. */
export interface Left {
  readonly tree: Readonly<Record<string, Node>>;
  readonly error: UnpackError | undefined;
}

export interface AttackOptions {
  /** Puts things into the root beforehand; `outside` is what must not be touched. */
  readonly prepare?: (root: string, outside: string) => void;
  /** Whether what is left is looked at; the default. It takes long where paths are. */
  readonly look?: boolean;
  readonly limits?: Parameters<typeof applyTar>[2] extends { limits?: infer L } | undefined ? L : never;
}

/**
 * Applies an archive beside files that it must not touch: for each way that deletions are kept, with openat2 and by the
 * walk, and in pieces. Fails where anything outside the root has another content, mode, owner, time, attribute or name than before,
 * where the error is no UnpackError, or where the two ways leave something else.
 * @param archive or what makes it from the absolute path of what must not be touched
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

/** The archive does no harm, and is refused in every way that deletions are kept. */
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

/** The archive does no harm and is applied: its paths are these, in every way that deletions are kept. */
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
