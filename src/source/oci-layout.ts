/** A local OCI image layout folder (image spec, image-layout.md). */
export interface OciLayoutSpec {
  readonly kind: 'oci-layout';
  /** Absolute path of the folder with `oci-layout` and `index.json`. */
  readonly path: string;
}
