/**
 * The two small HTTP servers of an operator in a cluster: what the kubelet asks and what Prometheus reads.
 */
import { createServer, type Server, type ServerResponse } from 'node:http';
import { CliError } from './arguments.ts';

/** Answers by path; undefined for what is not there. */
export type Answers = (path: string) => Promise<{ status: number; text: string; type?: string } | undefined>;

async function answer(answers: Answers, path: string, response: ServerResponse): Promise<void> {
  const {
    status,
    text,
    type = 'text/plain; charset=utf-8',
  } = (await answers(path)) ?? {
    status: 404,
    text: 'not found\n',
  };
  response.writeHead(status, { 'content-type': type, 'content-length': Buffer.byteLength(text) }).end(text);
}

/** @param flag the one that gave the port, for the message @throws CliError when the port is taken */
export function serveAnswers(port: number, flag: string, answers: Answers): Promise<Server> {
  const server = createServer((request, response) => {
    const path = (request.url ?? '/').split('?')[0] ?? '/';
    answer(answers, request.method === 'GET' ? path : '', response).catch(() => response.destroy());
  });
  server.maxConnections = 64;
  server.requestTimeout = 10_000;
  return new Promise((resolve, reject) => {
    server.once('error', (error) => reject(new CliError(`${flag} ${port}: ${error.message}`)));
    server.listen(port, () => resolve(server));
  });
}
