import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ConfigError } from '../../src/errors.ts';
import { maskSecrets } from '../../src/secrets.ts';
import { traceSettings } from '../../src/tracing/otel-variables.ts';

const endpoint = { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://collector:4318' };

test('nothing is traced without an endpoint, or if OpenTelemetry is disabled', () => {
  assert.equal(traceSettings({}), undefined);
  assert.equal(traceSettings({ OTEL_EXPORTER_OTLP_ENDPOINT: ' ' }), undefined);
  assert.equal(traceSettings({ ...endpoint, OTEL_SDK_DISABLED: 'TRUE' }), undefined);
  assert.equal(traceSettings({ ...endpoint, OTEL_TRACES_EXPORTER: 'none' }), undefined);
  assert.ok(traceSettings({ ...endpoint, OTEL_SDK_DISABLED: 'false' }));
});

test('the sampler follows its variables', () => {
  const sampler = (env: Readonly<Record<string, string>>) => {
    const { sampler, ratio } = traceSettings({ ...endpoint, ...env }) ?? {};
    return { ...sampler, ratio };
  };
  assert.deepEqual(sampler({}), { kind: 'always_on', isParentBased: true, ratio: 1 });
  assert.deepEqual(sampler({ OTEL_TRACES_SAMPLER: 'traceidratio', OTEL_TRACES_SAMPLER_ARG: '0.25' }), {
    kind: 'traceidratio',
    isParentBased: false,
    ratio: 0.25,
  });
  assert.throws(() => traceSettings({ ...endpoint, OTEL_TRACES_SAMPLER: 'jaeger_remote' }), ConfigError);
});

test('passwords in the URL and the values of headers are masked, and the URL in the log has no password', () => {
  const settings = traceSettings({
    OTEL_EXPORTER_OTLP_ENDPOINT: 'https://user:url-passw0rd@collector:4318/path',
    OTEL_EXPORTER_OTLP_HEADERS: 'api-key=header-s3cret-1,x-team=Bearer%20header-s3cret-2',
  });
  assert.equal(settings?.endpoint, 'https://collector:4318');
  const masked = maskSecrets('url-passw0rd, header-s3cret-1, Bearer header-s3cret-2');
  assert.doesNotMatch(masked, /passw0rd|s3cret/);
});

test('a file of a certificate that cannot be read, and a proxy that cannot be used, stop the start', () => {
  const secure = { OTEL_EXPORTER_OTLP_ENDPOINT: 'https://collector:4318' };
  assert.throws(
    // below a file, so that no machine has it
    () => traceSettings({ ...secure, OTEL_EXPORTER_OTLP_CERTIFICATE: '/proc/version/ca.pem' }),
    /^ConfigError: OTEL_EXPORTER_OTLP_CERTIFICATE=\/proc\/version\/ca\.pem can't be read: ENOTDIR/,
  );
  assert.throws(() => traceSettings({ ...secure, HTTPS_PROXY: 'socks5://proxy:1080' }), /HTTPS_PROXY names a proxy/);
  // a collector without TLS is reached directly, so neither is needed
  assert.ok(traceSettings({ ...endpoint, HTTPS_PROXY: 'socks5://proxy:1080' }));
});
