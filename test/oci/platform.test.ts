import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { formatPlatform, parsePlatform, runsOn, suitability } from '../../src/oci/platform.ts';

describe('a platform', () => {
  test('has one name for all its aliases', () => {
    for (const [written, name] of [
      ['linux/amd64', 'linux/amd64'],
      ['linux/amd64/v1', 'linux/amd64'],
      ['linux/x86_64', 'linux/amd64'],
      ['linux/amd64/v3', 'linux/amd64/v3'],
      ['linux/arm64', 'linux/arm64/v8'],
      ['linux/aarch64', 'linux/arm64/v8'],
      ['linux/arm', 'linux/arm/v7'],
      ['linux/armhf', 'linux/arm/v7'],
      ['linux/arm/6', 'linux/arm/v6'],
      ['Linux/s390x', 'linux/s390x'],
      ['linux/arm64/v8.0', 'linux/arm64/v8'],
      ['linux/i386/v1', 'linux/386'],
      ['linux/constructor', 'linux/constructor'],
    ] as const) {
      assert.equal(formatPlatform(parsePlatform(written)), name);
    }
  });

  test('prefers its own images, then those of older variants', () => {
    const names = (text: string) => runsOn(parsePlatform(text)).map(formatPlatform);
    assert.deepEqual(names('linux/arm/v7'), ['linux/arm/v7', 'linux/arm/v6', 'linux/arm/v5']);
    const arm = ['linux/arm/v8', 'linux/arm/v7', 'linux/arm/v6', 'linux/arm/v5'];
    const v8 = [5, 4, 3, 2, 1].map((minor) => `linux/arm64/v8.${minor}`);
    assert.deepEqual(names('linux/arm64/v9'), ['linux/arm64/v9', ...v8, 'linux/arm64/v8', ...arm]);
    assert.deepEqual(names('linux/arm64/v8.2'), ['linux/arm64/v8.2', 'linux/arm64/v8.1', 'linux/arm64/v8', ...arm]);
    assert.deepEqual(names('linux/arm64'), ['linux/arm64/v8', ...arm]);
    assert.deepEqual(names('linux/amd64/v3'), ['linux/amd64/v3', 'linux/amd64/v2', 'linux/amd64', 'linux/386']);
    assert.deepEqual(names('linux/amd64'), ['linux/amd64', 'linux/386']);
    assert.deepEqual(names('linux/riscv64'), ['linux/riscv64']);
    assert.deepEqual(names('linux/ppc64le/power9'), ['linux/ppc64le/power9']);
  });

  test('runs no image that needs features of the operating system, except win32k', () => {
    const rank = (wanted: string, osFeatures: string[]) =>
      suitability(parsePlatform(wanted))({ ...parsePlatform(wanted), osFeatures });
    assert.equal(rank('linux/amd64', []), 0);
    assert.equal(rank('linux/amd64', ['']), 0);
    assert.equal(rank('linux/amd64', ['nydus.remoteimage.v1']), undefined);
    assert.equal(rank('windows/amd64', ['win32k']), 0);
    assert.equal(rank('windows/amd64', ['win32k', 'other']), undefined);
  });
});
