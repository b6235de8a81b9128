/**
 * What a layer says too late. It is read once, from its front to its end, and beside the layers below it, and that is
 * enough but for rare cases, in which it is written once more, from the start, with this known:
 *  - In a full copy the layer deletes a directory of the layers below into which it has written by then. That must be as
 *    new, and so must what was made in it: a deletion hides what is below wherever it stands in the archive.
 *  - In a full copy the layer deletes a link that led to where it wrote, which should have been a directory of its own.
 *  - A directory that no entry names has a default ACL in the layers below. What was made in it should have inherited that.
 *    The second time the layers below are there, and the directory gets its attributes when it is made.
 */
export interface Foreknowledge {
  /**
   * Real paths below the root, without links, bytes as latin1: names of the layers below that the layer deletes after it
   * has written something there.
   */
  readonly deleted: readonly string[];
}
