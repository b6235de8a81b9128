import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { errnoOf } from './errno.ts';
import { ConfigError } from './errors.ts';

/**
 * What a profile of AWS's shared config file (`~/.aws/config`) says about S3. `src/s3-settings.ts` reads it; the AWS SDK reads the
 * credentials of the profile itself.
 */
export interface S3Profile {
  readonly name: string;
  /** The path of the config file. */
  readonly file: string;
  readonly region?: string | undefined;
  readonly endpoint?: string | undefined;
  readonly caBundle?: string | undefined;
}

type Environment = Readonly<Record<string, string | undefined>>;
type Section = ReadonlyMap<string, string>;

/**
 * Reads a profile from the file of AWS_CONFIG_FILE, or from `~/.aws/config`. A missing file or profile gives no values.
 * @param name default: AWS_PROFILE, or AWS_DEFAULT_PROFILE, or `default`
 * @throws ConfigError if the file is there and cannot be read
 */
export function readProfile(env: Environment, name?: string): S3Profile {
  const file = sharedFiles(env).config;
  const sections = sectionsOf(textOf(file));
  const profile = name ?? (env.AWS_PROFILE || env.AWS_DEFAULT_PROFILE || 'default');
  const values = sections.get(`profile ${profile}`) ?? (profile === 'default' ? sections.get('default') : undefined);
  const services = sections.get(`services ${values?.get('services') ?? ''}`);
  const ignores = env.AWS_IGNORE_CONFIGURED_ENDPOINT_URLS ?? values?.get('ignore_configured_endpoint_urls');
  return {
    name: profile,
    file,
    region: values?.get('region'),
    endpoint: ignores === 'true' ? undefined : (services?.get('s3.endpoint_url') ?? values?.get('endpoint_url')),
    caBundle: values?.get('ca_bundle'),
  };
}

/** The paths of AWS's shared files. */
export function sharedFiles(env: Environment): { readonly config: string; readonly credentials: string } {
  const at = (variable: string | undefined, name: string) => {
    const home = env.HOME || homedir();
    return variable ? variable.replace(/^~\//, `${home}/`) : join(home, '.aws', name);
  };
  return { config: at(env.AWS_CONFIG_FILE, 'config'), credentials: at(env.AWS_SHARED_CREDENTIALS_FILE, 'credentials') };
}

function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === 'ENOENT' || errno === 'ENOTDIR') return '';
    throw new ConfigError(`AWS_CONFIG_FILE=${path} can't be read (${errno ?? String(error)}): allow it, or unset it`);
  }
}

/** The sections of the file. A nested key (`endpoint_url` indented below `s3 =`) is `s3.endpoint_url`. */
function sectionsOf(text: string): Map<string, Section> {
  const sections = new Map<string, Map<string, string>>();
  let section: Map<string, string> | undefined;
  let outer = '';
  for (const line of text.split(/\r?\n/)) {
    if (/^\s*([#;]|$)/.test(line)) continue;
    const header = /^\[\s*(\S+)(?:\s+["']?(.*?)["']?)?\s*\]/.exec(line);
    if (header !== null) {
      const name = header[2] === undefined ? String(header[1]) : `${header[1]} ${header[2]}`;
      section = sections.get(name) ?? new Map();
      sections.set(name, section);
      continue;
    }
    const [, indent = '', key = '', value = ''] = /^(\s*)([^=]+?)\s*=\s*(.*?)(?:\s+[#;].*)?\s*$/.exec(line) ?? [];
    if (key === '') continue;
    if (indent === '') outer = key;
    section?.set(indent === '' ? key : `${outer}.${key}`, value);
  }
  return sections;
}
