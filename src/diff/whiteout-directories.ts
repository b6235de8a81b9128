interface Node {
  readonly children: Map<string, Node>;
  hollow: boolean;
}

/**
 * Directories that the layer has made for its whiteouts and opaque markers alone, by their real paths (bytes as latin1).
 * They add nothing: when the layer deletes one of them, or a directory above, it is gone. What is inside one is hollow
 * too, or a whiteout.
 */
export class WhiteoutDirectories {
  private readonly top: Node = { children: new Map(), hollow: false };
  /** Most layers have none, and nothing is looked up then. */
  count = 0;

  /** A directory was made for a deletion in it. */
  add(path: string): void {
    let node = this.top;
    for (const name of path.split('/')) {
      let child = node.children.get(name);
      if (child === undefined) {
        child = { children: new Map(), hollow: false };
        node.children.set(name, child);
      }
      node = child;
    }
    if (!node.hollow) this.count++;
    node.hollow = true;
  }

  /** Something was written at this path: it and the directories above are needed for that. */
  fill(path: string): void {
    if (this.count === 0) return;
    let node: Node | undefined = this.top;
    for (const name of path.split('/')) {
      node = node.children.get(name);
      if (node === undefined) return;
      if (node.hollow) this.count--;
      node.hollow = false;
    }
  }

  /** The directory is gone, with all inside. */
  remove(path: string): void {
    if (this.count > 0) this.cut(path);
  }

  /** Those that go when `path` is deleted: it itself, or the uppermost ones inside. They are forgotten. */
  take(path: string): string[] {
    if (this.count === 0) return [];
    const node = this.cut(path);
    return node === undefined ? [] : uppermost(node, path);
  }

  /** Takes out what is known of a path and of all inside. */
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

/** A path of an archive may have two thousand names, so nothing here calls itself. */
function countOf(top: Node): number {
  let count = 0;
  const rest = [top];
  for (let node = rest.pop(); node !== undefined; node = rest.pop()) {
    if (node.hollow) count++;
    rest.push(...node.children.values());
  }
  return count;
}

function uppermost(top: Node, path: string): string[] {
  const found: string[] = [];
  const rest = [{ node: top, path }];
  for (let next = rest.pop(); next !== undefined; next = rest.pop()) {
    if (next.node.hollow) found.push(next.path);
    else for (const [name, node] of next.node.children) rest.push({ node, path: `${next.path}/${name}` });
  }
  return found;
}
