import { test } from 'node:test';
import { valkeyProgram } from '../support/redis-deployments.ts';
import { testDeployments } from './deployments.ts';

const program = valkeyProgram();
if (program === undefined)
  test('Valkey', { skip: 'CONFORMANCE_VALKEY names no valkey-server: .ci/later-suite gets one' });
else testDeployments('Valkey', ['on one server', 'behind sentinels', 'in a cluster'], program);
