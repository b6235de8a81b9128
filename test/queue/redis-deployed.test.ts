import { testDeployments } from './deployments.ts';

testDeployments('Redis', ['behind sentinels', 'in a cluster']);
