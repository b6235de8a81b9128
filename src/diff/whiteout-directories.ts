interface Node {
  readonly children: Map<string, Node>;
  /** Whether the layer made this directory for whiteouts only. */
  onlyWhiteouts: boolean;
}

/**
 * Implied directories that hold only whiteouts and opaque markers, by their real paths (bytes as latin1). When the
 * layer deletes such a directory, or one above it, `ImpliedDirectories` removes it, because it adds nothing to the
 * image. Such a directory contains only whiteouts and further such directories.
 */
export class WhiteoutDirectories {
  private readonly top: Node = newNode();
  /** Number of these directories. It is 0 in most layers, and then all lookups are skipped. */
  count = 0;

  /** The layer made a directory for a whiteout. */
  add(path: string): void {
    let node = this.top;
    for (const name of path.split('/')) {
      let child = node.children.get(name);
      if (child === undefined) {
        child = newNode();
        node.children.set(name, child);
      }
      node = child;
    }
    if (!node.onlyWhiteouts) this.count++;
    node.onlyWhiteouts = true;
  }

  /** Something other than a whiteout was written at this path: the directories above the path are kept. */
  keep(path: string): void {
    if (this.count === 0) return;
    let node: Node | undefined = this.top;
    for (const name of path.split('/')) {
      node = node.children.get(name);
      if (node === undefined) return;
      if (node.onlyWhiteouts) this.count--;
      node.onlyWhiteouts = false;
    }
  }

  /** The directory was removed, with all its content. */
  remove(path: string): void {
    if (this.count > 0) this.cut(path);
  }

  /**
   * Removes and returns the directories to delete together with `path`: `path` itself, or else the topmost directories
   * below it.
   */
  take(path: string): string[] {
    if (this.count === 0) return [];
    const node = this.cut(path);
    return node === undefined ? [] : topmost(node, path);
  }

  /** Removes the node of a path and all nodes below it. */
  private cut(path: string): Node | undefined {
    const names = path.split('/');
    const last = names.pop();
    let above: Node | undefined = this.top;
    for (const name of names) above = above?.children.get(name);
    const node = last === undefined ? undefined : above?.children.get(last);
    if (node === undefined || last === undefined) return undefined;
    above?.children.delete(last);
    this.count -= countOf(node);
    return node;
  }
}

const newNode = (): Node => ({ children: new Map(), onlyWhiteouts: false });

/** Not recursive, because a path in an archive can be two thousand names deep. */
function countOf(top: Node): number {
  let count = 0;
  const rest = [top];
  for (let node = rest.pop(); node !== undefined; node = rest.pop()) {
    if (node.onlyWhiteouts) count++;
    rest.push(...node.children.values());
  }
  return count;
}

function topmost(top: Node, path: string): string[] {
  const found: string[] = [];
  const rest = [{ node: top, path }];
  for (let next = rest.pop(); next !== undefined; next = rest.pop()) {
    if (next.node.onlyWhiteouts) found.push(next.path);
    else for (const [name, node] of next.node.children) rest.push({ node, path: `${next.path}/${name}` });
  }
  return found;
}
