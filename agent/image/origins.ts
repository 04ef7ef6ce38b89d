/**
 * From what stands in an environment's `image.url` to an origin, within what the rack's administrator allows.
 *
 * Invariant: an address comes from a tenant and this process reaches networks that the tenant does not. What is not allowed is refused before
 * the first byte is asked for; the target of a redirect is judged as the address is: a tenant may have a word in what an allowed server sends.
 */
import type { Dispatcher } from 'undici';
import { FileOrigin, type Origin, OriginError, pathOfFileUrl } from './origin.ts';
import { HttpOrigin } from './origin-http.ts';

export interface OriginPolicy {
  /** Directories that file:// addresses may name files in; none when absent. */
  readonly directories?: readonly string[];
  /** What an http(s):// address, and each one that it redirects to, must begin with, such as "https://images.example/"; absent: any server. */
  readonly prefixes?: readonly string[];
}

/** @throws OriginError with fault Refused */
export function originOf(address: string, policy: OriginPolicy, dispatcher: Dispatcher): Origin {
  const url = URL.parse(address);
  if (url === null)
    throw new OriginError('Refused', 'the address of the image is no URL: write https://, http:// or file:///');
  if (url.protocol === 'file:') {
    const path = pathOfFileUrl(url);
    if (path instanceof OriginError) throw path;
    return new FileOrigin(path, policy.directories ?? []);
  }
  const { prefixes } = policy;
  const faultOf = (asked: URL): string | undefined =>
    prefixes === undefined || prefixes.some((prefix) => isBelow(asked, prefix))
      ? undefined
      : `this rack takes images from ${prefixes.join(', ')} only`;
  const fault = faultOf(url);
  if (fault !== undefined) throw new OriginError('Refused', `${url.origin}${url.pathname}: ${fault}`);
  return new HttpOrigin(url, dispatcher, faultOf);
}

/** By server and path, not by characters: "https://images.example" is no prefix of https://images.example.org, nor "/public" of /public-not. */
function isBelow(url: URL, prefix: string): boolean {
  const allowed = URL.parse(prefix);
  if (allowed === null || url.origin !== allowed.origin) return false;
  const { pathname } = allowed;
  return url.pathname === pathname || url.pathname.startsWith(pathname.endsWith('/') ? pathname : `${pathname}/`);
}
