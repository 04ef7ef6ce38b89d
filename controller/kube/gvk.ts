/**
 * How a kind is written: in an object, in a path, in a message.
 */
import type { GroupVersionKind } from './port.ts';

/** `group/version`, or the version alone for the core group: an object's `apiVersion`. */
export function apiVersion(gvk: GroupVersionKind): string {
  return gvk.group === '' ? gvk.version : `${gvk.group}/${gvk.version}`;
}

/** `plural.group`, or the plural alone: what kubectl and the server's messages call it. */
export function resourceName(gvk: GroupVersionKind): string {
  return gvk.group === '' ? gvk.plural : `${gvk.plural}.${gvk.group}`;
}
