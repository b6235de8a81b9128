import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { formatPlatform, parsePlatform, runsOn } from '../../src/oci/platform.ts';

describe('a platform', () => {
  test('has one name, whatever it is called', () => {
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
    ] as const) {
      assert.equal(formatPlatform(parsePlatform(written)), name);
    }
  });

  test('runs its own images first, then those of older variants', () => {
    const names = (text: string) => runsOn(parsePlatform(text)).map(formatPlatform);
    assert.deepEqual(names('linux/arm/v7'), ['linux/arm/v7', 'linux/arm/v6', 'linux/arm/v5']);
    assert.deepEqual(names('linux/arm64/v9'), ['linux/arm64/v9', 'linux/arm64/v8']);
    assert.deepEqual(names('linux/arm64/v8.2'), ['linux/arm64/v8.2', 'linux/arm64/v8']);
    assert.deepEqual(names('linux/arm64'), ['linux/arm64/v8']);
    assert.deepEqual(names('linux/amd64/v3'), ['linux/amd64/v3', 'linux/amd64/v2', 'linux/amd64']);
    assert.deepEqual(names('linux/amd64'), ['linux/amd64']);
    assert.deepEqual(names('linux/riscv64'), ['linux/riscv64']);
    assert.deepEqual(names('linux/ppc64le/power9'), ['linux/ppc64le/power9']);
  });
});
