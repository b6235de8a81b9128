import type { MinimumSpeed } from '../http/timeouts.ts';
import type { S3Request } from './s3-errors.ts';

export type { SignatureRefusal } from './s3-errors.ts';

/**
 * Where an image's bytes are: everything needed to open the source again, on another thread too (plain data that
 * survives structured clone).
 */
export type SourceSpec = S3SourceSpec | OciLayoutSpec;

/** What a source lends to another thread to read one blob: no credentials, and no client for them. */
export type BlobGrant = UrlGrant | FileGrant;

/** One blob that is a file of this machine. */
export interface FileGrant {
  readonly kind: 'file';
  readonly name: string;
  readonly path: string;
}

/** A URL that carries its own permission for some time, and how patiently it is read. Times are in milliseconds. */
export interface SignedUrl {
  readonly url: string;
  /** What the URL stands for, for messages. */
  readonly request: S3Request;
  readonly connectTimeout: number;
  readonly idleTimeout: number;
  readonly minimumSpeed?: MinimumSpeed | undefined;
  /** A file with the certificates (PEM) of further CAs that are believed. */
  readonly caBundle?: string | undefined;
}

/** One blob under a URL that carries its own permission for some hours. */
export interface UrlGrant extends SignedUrl {
  readonly kind: 'signed-url';
  /** The source's name, for messages. */
  readonly name: string;
  /** Bytes, as the descriptor says. */
  readonly size: number;
  readonly maxResumes: number;
}

/** Blobs in a bucket. Credentials come from the standard AWS chain unless they are given here. */
export interface S3SourceSpec {
  readonly kind: 's3';
  readonly bucket: string;
  /** Slashes at either end mean nothing; `""` for the bucket's root. */
  readonly prefix: string;
  readonly layout: BucketLayout;
  readonly connection: S3Connection;
}

export type BucketLayout =
  | { readonly kind: 'oci' }
  /** What the CNCF Distribution registry writes; `repository` is where its tags are. */
  | { readonly kind: 'distribution'; readonly repository?: string }
  /** `template` holds `{algorithm}` and `{hex}`. */
  | { readonly kind: 'keys'; readonly template: string };

/** The worker's own settings for S3; never part of a job. Times are in milliseconds. */
export interface S3Connection {
  readonly endpoint?: string;
  readonly region: string;
  readonly forcePathStyle: boolean;
  readonly credentials?: {
    readonly accessKeyId: string;
    readonly secretAccessKey: string;
    readonly sessionToken?: string;
  };
  readonly connectTimeout: number;
  /** Longest silence on a connection: before the first byte, or between two. */
  readonly idleTimeout: number;
  /** How often in a row one download continues after a broken connection or a 5xx before it fails. */
  readonly maxResumes: number;
  /** A slower connection counts as broken. */
  readonly minimumSpeed?: MinimumSpeed | undefined;
  /** A file with the certificates (PEM) of further CAs that are believed. */
  readonly caBundle?: string | undefined;
  /** Name of the environment variable with a proxy, which is not used: for messages. */
  readonly unusedProxy?: string | undefined;
}

/** A local OCI image layout folder (image spec, image-layout.md). */
export interface OciLayoutSpec {
  readonly kind: 'oci-layout';
  /** Absolute path of the folder with `oci-layout` and `index.json`. */
  readonly path: string;
}
