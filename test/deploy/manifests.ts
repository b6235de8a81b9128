import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { DaemonSet, Deployment } from 'kubernetes-types/apps/v1.d.ts';
import type { Namespace, Secret, Service } from 'kubernetes-types/core/v1.d.ts';
import type { NetworkPolicy } from 'kubernetes-types/networking/v1.d.ts';
import { parseAllDocuments } from 'yaml';
import { scratch } from '../support/scratch.ts';

/** What `kubectl apply -k` sends to a cluster, for the tests of deploy/kubernetes: kustomize makes it. */

/** The folders of deploy/kubernetes that users apply. */
export const FOLDERS = ['base', 'collection', 'containerd'] as const;

export type Manifest = DaemonSet | Deployment | Namespace | NetworkPolicy | Secret | Service;

/** The oldest kustomize that knows the field `labels`. Debian 12 has an older one in its kubectl. */
const OLDEST_KUSTOMIZE = 4.1;

/** KUBECTL names a newer one, as .ci/later-suite gets it. */
const KUBECTL = process.env.KUBECTL ?? 'kubectl';

/** The reason to skip a test that needs kustomize. @throws Error if KUBECTL names a program without it */
export function skipWithoutKustomize(): string | false {
  const { stdout } = spawnSync(KUBECTL, ['version', '--client'], { encoding: 'utf8' });
  const version = Number.parseFloat(/Kustomize Version: v([\d.]+)/.exec(stdout ?? '')?.[1] ?? '0');
  if (version >= OLDEST_KUSTOMIZE) return false;
  const reason = `${KUBECTL} has no kustomize from ${OLDEST_KUSTOMIZE} on`;
  if (process.env.KUBECTL !== undefined) throw new Error(reason);
  return reason;
}

/**
 * @param settings lines of unpackd.env, which replace those of unpackd.example.env
 * @param change changes the text of what kustomize has made
 */
export function manifestsOf(
  folder: (typeof FOLDERS)[number],
  settings: Readonly<Record<string, string>> = {},
  change = (text: string) => text,
): Manifest[] {
  using copy = scratch();
  const root = join(import.meta.dirname, '../../deploy/kubernetes');
  cpSync(root, copy.path, { recursive: true });
  const env = join(copy.path, 'base/unpackd.env');
  if (Object.keys(settings).length === 0) cpSync(join(copy.path, 'base/unpackd.example.env'), env);
  else
    writeFileSync(
      env,
      Object.entries(settings)
        .map((line) => `${line.join('=')}\n`)
        .join(''),
    );
  const text = execFileSync(KUBECTL, ['kustomize', join(copy.path, folder)], { encoding: 'utf8' });
  // `toJS` has no type; that these are the objects of the API is what schemas.test.ts checks
  return parseAllDocuments(change(text)).map((document) => document.toJS() as Manifest);
}

/** The only manifest of a kind. @throws Error if there is none */
export function manifest<Kind extends Manifest['kind']>(
  manifests: readonly Manifest[],
  kind: Kind,
): Extract<Manifest, { readonly kind?: Kind }> {
  const found = manifests.find((one) => one.kind === kind);
  if (found === undefined) throw new Error(`there is no ${kind}`);
  return found as Extract<Manifest, { readonly kind?: Kind }>; // compared above
}
