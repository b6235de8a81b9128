/**
 * What a layer says too late. A deletion hides what is below wherever it stands in the archive, but the archive is read
 * once, from its front to its end, and what was written before the deletion was written into directories that it should
 * not have found. No builder writes layers like that, so nothing is kept for the case: such a layer is written once more,
 * from the start, with this known.
 */
export interface Foreknowledge {
  /**
   * Real paths below the root, without links, bytes as latin1: names of the layers below that the layer deletes after it
   * has written something there.
   */
  readonly deleted: readonly string[];
}
