import assert from 'node:assert/strict';
import { symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import type { PodTemplateSpec } from 'kubernetes-types/core/v1.d.ts';
import { runChild } from '../support/child.ts';
import { scratch } from '../support/scratch.ts';
import { FOLDERS, type Manifest, manifest, manifestsOf, skipWithoutKustomize } from './manifests.ts';

/**
 * What kustomize makes of deploy/kubernetes, against the types of Kubernetes' API (kubernetes-types, which is generated from its
 * OpenAPI document). TypeScript is the validator: it refuses an object with an unknown field, a missing one or one of another type.
 */

const root = join(import.meta.dirname, '../..');

/** Fields that are maps with any keys for the API. */
const MAPS = new Set(['labels', 'annotations', 'matchLabels', 'data', 'limits', 'requests']);

/** Which module has the type of a kind. */
const MODULES: Readonly<Record<string, string>> = {
  'apps/v1': 'apps/v1',
  'networking.k8s.io/v1': 'networking/v1',
  v1: 'core/v1',
};

describe('deploy/kubernetes', { skip: skipWithoutKustomize() }, () => {
  for (const folder of FOLDERS) {
    test(`${folder} makes a worker for each node, a board and their policies, as the API expects them`, () => {
      const manifests = manifestsOf(folder);
      const kinds = manifests.map(({ kind }) => kind).sort();
      const policies = ['NetworkPolicy', 'NetworkPolicy'];
      assert.deepEqual(kinds, ['DaemonSet', 'Deployment', 'Namespace', ...policies, 'Secret', 'Service']);
      assert.deepEqual(refused(manifests), new Map());
      const { spec } = manifest(manifests, 'DaemonSet');
      assert.equal(spec?.template.spec?.hostPID ?? false, folder === 'collection');
      const volumes = spec?.template.spec?.volumes?.map(({ name }) => name);
      assert.equal(volumes?.includes('containerd'), folder === 'containerd');
    });
  }

  test('a misspelt field is refused, wherever it is', () => {
    const wrong = manifestsOf('containerd').flatMap(misspelt);
    assert.ok(wrong.length > 150, `${wrong.length} fields`);
    const found = refused(wrong.map(({ manifest }) => manifest));
    assert.deepEqual(
      wrong.filter((_, index) => !found.has(index)).map(({ path }) => path),
      [],
    );
  });

  test('selectors choose the pods that they are for, and probes and services a port of them', () => {
    const manifests = manifestsOf('base');
    const worker = manifest(manifests, 'DaemonSet');
    const board = manifest(manifests, 'Deployment');
    for (const { metadata, spec } of [worker, board]) {
      const name = metadata?.name;
      const labels = spec?.template.metadata?.labels ?? {};
      chooses(spec?.selector.matchLabels, labels);
      const policy = manifests.find((one) => one.kind === 'NetworkPolicy' && one.metadata?.name === name);
      assert.ok(policy?.kind === 'NetworkPolicy');
      chooses(policy.spec?.podSelector?.matchLabels, labels);
      const ports = portsOf(spec?.template);
      assert.deepEqual(
        policy.spec?.ingress?.flatMap(({ ports = [] }) => ports.map(({ port }) => port)),
        [...ports.values()],
      );
      for (const container of spec?.template.spec?.containers ?? []) {
        for (const probe of [container.startupProbe, container.livenessProbe, container.readinessProbe]) {
          if (probe !== undefined) assert.ok(ports.has(String(probe.httpGet?.port)));
        }
      }
    }
    const service = manifest(manifests, 'Service');
    chooses(service.spec?.selector, board.spec?.template.metadata?.labels ?? {});
    for (const { targetPort } of service.spec?.ports ?? [])
      assert.ok(portsOf(board.spec?.template).has(String(targetPort)));
  });
});

/** The first complaint of the compiler about each manifest that it refuses, by the manifest's place in the list. */
function refused(manifests: readonly Manifest[]): Map<number, string> {
  using folder = scratch();
  symlinkSync(join(root, 'node_modules'), join(folder.path, 'node_modules'));
  // one line each
  const lines = manifests.map((one, index) => {
    const type = `import('kubernetes-types/${MODULES[one.apiVersion ?? '']}.d.ts').${one.kind}`;
    return `export const m${index}: ${type} = ${JSON.stringify(one)};`;
  });
  writeFileSync(join(folder.path, 'manifests.mts'), lines.join('\n'));
  const compilerOptions = { strict: true, noEmit: true, module: 'nodenext', skipLibCheck: true, types: [] };
  writeFileSync(join(folder.path, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['manifests.mts'] }));
  const tsc = join(root, 'node_modules/typescript/bin/tsc');
  const { stdout, status } = runChild(process.execPath, [tsc, '--pretty', 'false', '-p', folder.path]);
  const complaints = [...stdout.matchAll(/manifests\.mts\((\d+),\d+\): error (.*)$/gm)];
  assert.equal(status === 0, complaints.length === 0, stdout);
  return new Map(complaints.reverse().map(([, line, text = '']) => [Number(line) - 1, text]));
}

/** Copies of a manifest, with another field misspelt in each. */
function misspelt(original: Manifest): { readonly path: string; readonly manifest: Manifest }[] {
  const paths: (readonly string[])[] = [];
  const visit = (value: unknown, path: readonly string[]): void => {
    if (typeof value !== 'object' || value === null) return;
    for (const [key, inner] of Object.entries(value)) {
      // the type is chosen by these two
      if (path.length === 0 && (key === 'kind' || key === 'apiVersion')) continue;
      if (!Array.isArray(value)) paths.push([...path, key]);
      const isMap = MAPS.has(key) || (original.kind === 'Service' && key === 'selector');
      if (!isMap) visit(inner, [...path, key]);
    }
  };
  visit(original, []);
  return paths.map((path) => {
    const copy = structuredClone(original);
    let parent: Record<string, unknown> = { ...copy };
    const manifest = parent;
    for (const key of path.slice(0, -1)) {
      parent[key] = structuredClone(parent[key]);
      parent = parent[key] as Record<string, unknown>; // visited above
    }
    const last = path.at(-1) ?? '';
    parent[`${last}x`] = parent[last];
    delete parent[last];
    return { path: `${original.kind}: ${path.join('.')}`, manifest: manifest as Manifest };
  });
}

function chooses(
  selector: Readonly<Record<string, string>> | undefined,
  labels: Readonly<Record<string, string>>,
): void {
  assert.ok(selector !== undefined && Object.keys(selector).length > 0);
  assert.deepEqual({ ...labels, ...selector }, labels);
}

function portsOf(template: PodTemplateSpec | undefined): Map<string, number> {
  const ports = template?.spec?.containers.flatMap(({ ports = [] }) => ports) ?? [];
  return new Map(ports.map(({ name = '', containerPort }) => [name, containerPort]));
}
