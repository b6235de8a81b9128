/** What one layer may hold at most; passing one is LIMIT_EXCEEDED. */
export interface LayerLimits {
  /** Bytes of the tar, after decompression. */
  readonly uncompressedBytes: number;
  readonly entries: number;
  /** Bytes of PAX records and long names of one entry. */
  readonly entryMetadataBytes: number;
  /** Bytes of memory, roughly, for what must be known until the last entry: times of directories, names of deletions. */
  readonly rememberedBytes: number;
}
