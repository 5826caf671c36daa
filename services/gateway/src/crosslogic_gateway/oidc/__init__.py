"""Administrators who sign in with an OpenID provider, such as Google or Azure AD."""
