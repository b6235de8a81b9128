/**
 * Where the values of a connection come from, for messages that say what to correct. `src/s3-settings.ts` makes them, and the
 * messages of `s3-errors.ts` and of `unpackd doctor` have them.
 */
export interface S3SettingNames {
  readonly endpoint: string;
  readonly region: string;
  readonly pathStyle: string;
  readonly caBundle: string;
  readonly credentials: string;
}

/** The settings without a profile and without UNPACK_S3_ENDPOINTS. */
export const USUAL_SETTINGS: S3SettingNames = {
  endpoint: 'S3_ENDPOINT',
  region: 'AWS_REGION',
  pathStyle: 'S3_FORCE_PATH_STYLE',
  caBundle: 'AWS_CA_BUNDLE',
  credentials: 'AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY',
};
