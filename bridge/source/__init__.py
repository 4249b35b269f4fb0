"""Source: API client → page → document. Everything a provider says in its own words ends in this folder."""
