import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { UnpackError } from '../../src/errors.ts';
import { formatImageName, parseImageName } from '../../src/oci/image-name.ts';

const SHA256 = `sha256:${'0123456789abcdef'.repeat(4)}`;
const SHA512 = `sha512:${'0123456789abcdef'.repeat(8)}`;
const full = (text: string) => formatImageName(parseImageName(text));

describe('the full name of an image', () => {
  test('has the host, the repository and the tag that people leave out', () => {
    for (const [written, name] of [
      ['alpine', 'docker.io/library/alpine:latest'],
      ['alpine:3.20', 'docker.io/library/alpine:3.20'],
      ['library/alpine:3.20', 'docker.io/library/alpine:3.20'],
      ['team/app', 'docker.io/team/app:latest'],
      ['docker.io/alpine:3', 'docker.io/library/alpine:3'],
      ['docker.io/library/alpine:3', 'docker.io/library/alpine:3'],
      ['index.docker.io/alpine', 'docker.io/library/alpine:latest'],
      ['index.docker.io/team/app:1', 'docker.io/team/app:1'],
      ['localhost/app', 'localhost/app:latest'],
      ['localhost:5000/app', 'localhost:5000/app:latest'],
      ['localhost:5000', 'docker.io/library/localhost:5000'],
      ['registry.example.com/app', 'registry.example.com/app:latest'],
      ['registry.example.com/team/app:v1.2_3-rc', 'registry.example.com/team/app:v1.2_3-rc'],
      ['registry.example.com:443/a/b/c/d:_x', 'registry.example.com:443/a/b/c/d:_x'],
      ['10.0.0.1/app', '10.0.0.1/app:latest'],
      ['[::1]:5000/app:1', '[::1]:5000/app:1'],
      ['[fd00:1::7]/app', '[fd00:1::7]/app:latest'],
      ['Registry/app:1', 'Registry/app:1'],
      ['Registry.Example.COM/app:Tag', 'Registry.Example.COM/app:Tag'],
      ['a__b/c-d--e.f_g:1', 'docker.io/a__b/c-d--e.f_g:1'],
    ] as const) {
      assert.equal(full(written), name, written);
    }
  });

  test('has either a tag or a digest, and the digest if both are given', () => {
    assert.equal(full(`alpine@${SHA256}`), `docker.io/library/alpine@${SHA256}`);
    assert.equal(full(`alpine:3.20@${SHA256}`), `docker.io/library/alpine@${SHA256}`);
    assert.equal(full(`localhost:5000/app:1@${SHA512}`), `localhost:5000/app@${SHA512}`);
  });

  test('is its own full name', () => {
    for (const name of [full('alpine'), full(`alpine@${SHA256}`), full('[::1]:5000/app')])
      assert.equal(full(name), name);
  });

  test('cannot be made from a text that is not a name', () => {
    for (const [text, wrong] of [
      ['', /it is empty/],
      [SHA256, /it is a digest without a repository/],
      [SHA256.slice(7), /it is a digest without a repository/],
      ['s3://bucket/images:app', /it begins with s3:\/\/.*write HOST\/REPOSITORY:TAG/],
      ['./layout:app', /"\." is not a host/],
      ['/srv/layout', /"\/srv\/layout" is not a repository/],
      ['../layout', /"\.\." is not a host/],
      ['-registry.example.com/app', /"-registry.example.com" is not a host/],
      ['example.com:port/app', /"example.com:port" is not a host/],
      ['example..com/app', /"example..com" is not a host/],
      ['[::1/app', /"\[::1" is not a host/],
      ['app name', /"library\/app name" is not a repository/],
      ['team//app', /"team\/\/app" is not a repository/],
      ['team/app/', /"team\/app\/" is not a repository/],
      ['a___b', /"library\/a___b" is not a repository/],
      ['app..x', /"library\/app..x" is not a repository/],
      ['app_', /"library\/app_" is not a repository/],
      ['app\n', /is not a repository/],
      ['app:1\n', /is not a tag/],
      ['ápp', /is not a repository/],
      ['app:', /"" is not a tag/],
      ['app:.1', /"\.1" is not a tag/],
      [`app:${'x'.repeat(129)}`, /is not a tag/],
      ['app:1:2', /"1:2" is not a tag/],
      ['app@', /"" is not a digest/],
      ['app@sha256:0123', /"sha256:0123" is not a digest/],
      [`app@${SHA256.toUpperCase()}`, /is not a digest/],
      [`app@${SHA256}@${SHA256}`, /is not a digest/],
      [`${'a'.repeat(260)}.example/app`, /its host is longer than 260 characters/],
      [`example.com/${'a'.repeat(256)}`, /its repository is longer than 255 characters/],
    ] as const) {
      assert.throws(
        () => parseImageName(text),
        (error) => error instanceof UnpackError && error.code === 'INVALID_JOB' && wrong.test(error.message),
        text,
      );
    }
  });

  test('is suggested where the text is nearly one', () => {
    for (const [text, name] of [
      ['Team/App:V1', 'docker.io/team/app:V1'],
      ['Alpine', 'docker.io/library/alpine:latest'],
      ['https://registry.example.com/Team/App:V1', 'registry.example.com/team/app:V1'],
      ['docker://alpine:3', 'docker.io/library/alpine:3'],
      ['localhost:5000/App:V1', 'localhost:5000/app:V1'],
    ] as const) {
      assert.throws(
        () => parseImageName(text),
        (error) =>
          error instanceof UnpackError && error.code === 'INVALID_JOB' && error.message.endsWith(`write ${name}`),
        text,
      );
    }
  });
});
