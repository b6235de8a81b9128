import assert from 'node:assert/strict';
import { test } from 'node:test';
import { addSecret, maskSecrets } from '../src/secrets.ts';

const masked: readonly (readonly [text: string, expected: string])[] = [
  ['at redis://user:pa/s@s#x@host:1, said', 'at redis://***@host:1, said'],
  ['redis://h:1/2@host', 'redis://***@host'],
  ['"redis://u:p\\"q@host","image":"a@b"', '"redis://***@host","image":"a@b"'],
  ['https://user:pass@host/path', 'https://***@host/path'],
  ['https://user:pa/ss@host/path', 'https://***@host/path'],
  ['s3://key:secret@bucket/app', 's3://***@bucket/app'],
  [
    'https://b.s3/k?X-Amz-Credential=AKIA%2F1&X-Amz-Signature=ab12&x-id=GetObject',
    'https://b.s3/k?X-Amz-Credential=***&X-Amz-Signature=***&x-id=GetObject',
  ],
  ['?X-Amz-Security-Token=abc/+=', '?X-Amz-Security-Token=***'],
  ['redis://host?password=hunter2', 'redis://host?password=***'],
  ['AWS_SECRET_ACCESS_KEY=wJalr/XUt', 'AWS_SECRET_ACCESS_KEY=***'],
  ['authorization: Basic YW5uOnNlY3JldA==', 'authorization: Basic ***'],
];
for (const [text, expected] of masked) test(`masks ${text}`, () => assert.equal(maskSecrets(text), expected));

const kept = [
  's3://images/team/app@sha256:0123',
  'docker://registry.example/app@sha256:0123',
  's3://images/app@latest',
  'https://host:9000/bucket/a@b',
  'registry.example/app:1.0@sha256:0123',
  'redis://127.0.0.1:6379/2',
  'basic rights',
];
for (const text of kept) test(`keeps ${text}`, () => assert.equal(maskSecrets(text), text));

test('a known secret is masked in every text', () => {
  addSecret('hun/ter "2"');
  assert.equal(maskSecrets('said hun/ter "2" and hun%2Fter%20%222%22'), 'said *** and ***');
  assert.equal(maskSecrets(JSON.stringify({ of: 'hun/ter "2"' })), '{"of":"***"}');
});
