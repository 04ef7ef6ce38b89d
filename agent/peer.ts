/**
 * Who is at the other end of a connection: the operator, by the name in a certificate of its CA that is valid now.
 */
import type { TLSSocket } from 'node:tls';

/** What the operator's certificate must say; what is absent is not asked for. */
export interface OperatorName {
  readonly commonName: string;
  readonly organization?: string;
}

/** Epoch milliseconds; a certificate whose end cannot be read has ended. */
export function certificateEnd(socket: TLSSocket): number {
  const end = Date.parse(socket.getPeerCertificate().valid_to ?? '');
  return Number.isNaN(end) ? Number.NEGATIVE_INFINITY : end;
}

/** Why the peer is not the operator, as a sentence; undefined when it is. */
export function objectionTo(socket: TLSSocket, operator: OperatorName, nowMs: number): string | undefined {
  const { commonName, organization } = operator;
  const subject = socket.authorized ? socket.getPeerCertificate().subject : undefined;
  const isNamed = subject?.CN === commonName && (organization === undefined || subject.O === organization);
  if (!isNamed) return `this certificate is not that of ${commonName}`;
  // The handshake looked at this once; a connection may outlive its certificate.
  const end = certificateEnd(socket);
  return nowMs < end ? undefined : `this certificate ended at ${new Date(end).toISOString()}`;
}
