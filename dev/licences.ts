import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/**
 * The licences of the packages that are installed with unpackd. `npm run licences` lists them, a test refuses those that ask for more
 * than to be named, and the build writes the texts of those whose code is inside its programs.
 */

/** SPDX identifiers of licences that only ask for their text, and a notice, beside the code. */
const PERMISSIVE = new Set(['0BSD', 'Apache-2.0', 'BlueOak-1.0.0', 'BSD-2-Clause', 'BSD-3-Clause', 'ISC', 'MIT']);

export interface LicensedPackage {
  readonly name: string;
  readonly version: string;
  /** An SPDX expression; `unknown` if the package names none. */
  readonly licence: string;
}

/** The fields of package-lock.json that are used here. */
export interface Lock {
  readonly packages: Readonly<
    Record<string, { readonly version?: string; readonly license?: string; readonly dev?: boolean }>
  >;
}

/** Every package that `npm ci --omit=dev` installs on any platform, by name. */
export function runtimePackages({ packages }: Lock): LicensedPackage[] {
  const found = Object.entries(packages)
    .filter(([path, { dev }]) => path !== '' && dev !== true)
    .map(([path, { version = '', license = 'unknown' }]) => ({ name: nameOf(path), version, licence: license }));
  return found.sort((a, b) => a.name.localeCompare(b.name) || a.version.localeCompare(b.version));
}

/** Whether each choice of `A AND B`, or one of `A OR B`, is permissive. Other expressions are not. */
export function isPermissive(licence: string): boolean {
  const expression = licence.replace(/^\((.*)\)$/, '$1');
  if (expression.includes(' AND ')) return expression.split(' AND ').every((part) => PERMISSIVE.has(part));
  return expression.split(' OR ').some((part) => PERMISSIVE.has(part));
}

/**
 * The licence texts of packages whose code is in a bundle.
 * @param inputs the files of the bundle, relative to the root
 * @throws Error for a package without a file of its licence
 */
export function noticesOf(root: string, inputs: readonly string[]): string {
  const folders = new Set(inputs.flatMap((path) => /^.*node_modules\/(?:@[^/]+\/)?[^/]+/.exec(path)?.[0] ?? []));
  const texts = [...folders].sort().map((folder) => {
    const file = readdirSync(join(root, folder)).find((name) => /^licen[cs]e(\.|$)/i.test(name));
    if (file === undefined) throw new Error(`${folder} has no file with its licence: its code must not be bundled`);
    const { version } = JSON.parse(readFileSync(join(root, folder, 'package.json'), 'utf8'));
    return `${nameOf(folder)} ${version}\n\n${readFileSync(join(root, folder, file), 'utf8').trim()}\n`;
  });
  return `These packages are part of the programs in this folder.\n\n${texts.join(`\n${'-'.repeat(72)}\n\n`)}`;
}

const nameOf = (path: string): string => path.replace(/^.*node_modules\//, '');

if (import.meta.main) {
  const lock: Lock = JSON.parse(readFileSync(join(import.meta.dirname, '../package-lock.json'), 'utf8'));
  const all = runtimePackages(lock);
  for (const { name, version, licence } of all) console.log([licence.padEnd(14), name, version].join(' '));
  const refused = all.filter(({ licence }) => !isPermissive(licence));
  for (const { name, licence } of refused)
    console.error(`${name}: ${licence} is no licence that is known as permissive`);
  process.exitCode = refused.length === 0 ? 0 : 1;
}
